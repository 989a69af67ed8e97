"""Conformance checks for plugins: call one in a test of your own, and it says in words what breaks the protocol.

    from dmd2cli.testing import check_teacher

    def test_teacher():
        check_teacher(teacher("tiny-random"))

Each raises AssertionError. They run on the CPU, in seconds for a network of toy size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass, replace
from inspect import signature
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from dmd2cli.core.noise import Discrete, Karras, NoiseSchedule, RectifiedFlow, scales
from dmd2cli.core.random import Numbered, Rng
from dmd2cli.errors import UserError
from dmd2cli.losses.reward import frozen
from dmd2cli.protocols import Dataset, Example, Exporter, Loss, Metric, Pair, Raw, Reward, Sample, Sampler, Teacher
from dmd2cli.student import Student
from dmd2cli.testing_teacher import (
    ROWS,
    batch_for,
    check_schedule,
    check_teacher,
    distillation,
    own_samples,
    say,
    some,
    toy,
)

__all__ = [
    "check_dataset", "check_exporter", "check_loss", "check_metric", "check_reward", "check_sampler",
    "check_schedule", "check_teacher", "check_weighting",
]  # fmt: skip


# -- losses, rewards, samplers, weightings ---------------------------------------------------------------------


def check_loss(loss: Loss, teacher: Teacher | None = None) -> None:
    """A term is a finite mean over its micro-batch, a function of its rng alone, and teaches its own player.

    A term with `pairwise = True` compares samples of one condition: it gets such, and need not be a mean over rows.
    """
    say(is_dataclass(loss), "a loss must be a frozen dataclass whose fields are its options")
    say(loss.player in ("generator", "critic"), f"player must be 'generator' or 'critic', not {loss.player!r}")
    teacher, pairwise = teacher or toy(), getattr(loss, "pairwise", False)
    raw = some(teacher)[:1] * ROWS if pairwise else some(teacher)
    cond, null = teacher.encode(raw)
    d = distillation(teacher)
    batch = replace(batch_for(teacher), cond=cond, null=null, real_cond=cond, raw=raw)
    nets, mine = d.nets, {"generator": d.generator, "critic": d.critic}[loss.player]
    with torch.no_grad():
        for p in d.critic.parameters:                              # where fake == real there is nothing to learn
            p.mul_(1.1)
    s = d.student(batch, Rng(0, 0), grad=loss.player == "generator")
    pair = Pair(torch.zeros_like(s.x), s.x) if getattr(loss, "reads_pairs", False) else None
    seen = replace(s, real=s.real if loss.reads_real else None, pair=pair)
    rng = Rng(0, 1).at(s.rows, s.total)
    torch.manual_seed(0)
    value = loss(seen, nets, rng)
    say(value.shape == () and value.isfinite(), f"a loss must be one finite number, not {value}")
    torch.manual_seed(1)
    say(loss(seen, nets, rng).equal(value), "a loss must draw from its rng alone: the same rng gave another value")
    say(value.requires_grad, f"a loss without gradient teaches the {loss.player} nothing; is it under no_grad()?")
    grads = torch.autograd.grad(value, mine.parameters, allow_unused=True)
    say(any(g is not None and g.any() for g in grads), f"the gradient does not reach the {loss.player}")
    if pairwise:
        return
    halves = [slice(0, ROWS // 2), slice(ROWS // 2, ROWS)]
    parts = [loss(rows_of(seen, rows), nets, rng.at(rows, s.total)) for rows in halves]
    near = torch.allclose(torch.stack(parts).mean(), value, rtol=1e-3, atol=1e-6)
    say(near, "a loss must be a mean over its micro-batch: the mean of two halves is not that of the whole")


def check_reward(reward: Reward, teacher: Teacher | None = None) -> None:
    """One finite number per image, a function of that image and its condition alone, that says how to raise it.

    The images are the teacher's own, by its decoder "full"; without a teacher, random ones of 64 pixels with text.
    """
    reward = frozen(reward, torch.device("cpu"))
    if teacher is not None:
        say("full" in teacher.decoders, "the teacher needs a decoder \"full\" for its images to be rewarded")
        images, raw = teacher.decoders["full"](own_samples(teacher)).detach(), some(teacher)
    else:
        images = Rng(0, 0).uniform("images", torch.empty(ROWS * 3 * 64**2, 1), -1, 1).view(ROWS, 3, 64, 64)
        raw = [f"a photo of {n} cats" for n in range(ROWS)]
    images.requires_grad_()
    torch.manual_seed(0)
    found = reward(images, raw)
    say(found.shape == (ROWS,), f"a reward must give one number per image, ({ROWS},), not {tuple(found.shape)}")
    say(found.isfinite().all(), f"a reward must be finite, not {found.tolist()}")
    torch.manual_seed(1)
    say(reward(images, raw).equal(found), "a reward must be a function of its arguments: a second call gave another")
    say(found.requires_grad, "a reward without gradient teaches nothing; is it under no_grad()?")
    (grad,) = torch.autograd.grad(found.sum(), images, allow_unused=True)
    reached = grad is not None and grad.isfinite().all() and grad.flatten(1).any(1).all()
    say(reached, "the gradient does not reach every image, or is not finite")
    alone = torch.cat([reward(images[i : i + 1], raw[i : i + 1]) for i in range(ROWS)])
    say(torch.allclose(alone, found, rtol=1e-3, atol=1e-4), "a reward must judge each image alone: others change it")


def check_sampler(sampler: Sampler) -> None:
    """Under every schedule: ends at clean data, calls the network nfe times, and draws from its rng alone.

    A schedule that it refuses with a UserError is left out; one of a step, a table and a flow it must take.
    """
    say(is_dataclass(sampler), "a sampler must be a frozen dataclass whose fields are its options")
    taken = [schedule for schedule in (Karras(), Discrete.linear(), RectifiedFlow()) if takes(sampler, schedule)]
    say(taken, "a sampler must take one of the schedules Karras, Discrete and RectifiedFlow")
    say(isinstance(sampler.deterministic, bool), "deterministic must say whether x is a function of the noise alone")
    for schedule in taken:
        where, calls = type(schedule).__name__, list[Tensor]()
        noise = Numbered(0, range(ROWS)).normal("noise", torch.empty(ROWS, 2, 3))
        given = noise.clone()

        def denoise(x_t: Tensor, t: Tensor, calls: list[Tensor] = calls) -> Tensor:
            calls.append(t)
            say(x_t.dtype == torch.float32 and t.shape == (ROWS,), "the network must get float32 x_t and t (b,)")
            say((t >= 0).all() and t.isfinite().all(), "times must be finite and not negative")
            return torch.full_like(x_t, 0.25)

        x = sampler(denoise, schedule, noise, Numbered(0, range(ROWS)))
        say(x.shape == noise.shape and x.dtype == noise.dtype, f"{where}: x must have the shape and type of the noise")
        left = float(schedule(noise.new_zeros(1))[1]) if getattr(sampler, "ends_at_table", False) else 0.0
        at_end = torch.allclose(x, torch.full_like(x, 0.25), atol=1e-4 + 5 * left)
        say(at_end, f"{where}: the sampler must end at t = 0: a network that always says 0.25 gave {x.flatten()[:3]}")
        say(noise.equal(given), f"{where}: the sampler changes the noise it was given; work on a copy")
        saved = int(schedule(noise.new_ones(1))[0] == 0)           # a second-order step from alpha = 0 is first order
        counted = sampler.nfe - saved <= len(calls) <= sampler.nfe
        say(counted, f"{where}: nfe says {sampler.nfe} network calls per sample, counted {len(calls)}")
        check_sampler_rng(sampler, schedule, noise)


def takes(sampler: Sampler, schedule: NoiseSchedule) -> bool:
    """Whether the sampler runs under a schedule at all."""
    try:
        sampler(lambda x_t, t: 0.5 * x_t, schedule, torch.zeros(1, 2), Numbered(0, range(1)))
    except UserError:
        return False
    return True


def check_sampler_rng(sampler: Sampler, schedule: NoiseSchedule, noise: Tensor) -> None:
    """The same noise and streams give the same sample, whatever the global random state; the noise alone may do."""
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        drawn.append(sampler(lambda x_t, t: 0.5 * x_t, schedule, noise, Numbered(0, range(ROWS))))
    say(drawn[0].equal(drawn[1]), "a sampler must draw from its rng alone, not from torch's global random state")
    other = sampler(lambda x_t, t: 0.5 * x_t, schedule, noise, Numbered(1, range(ROWS)))
    say(drawn[0].equal(other) or not sampler.deterministic, "deterministic is True, but other streams change it")


def check_weighting(weighting: Callable[..., Tensor]) -> None:
    """A denoising weight (alpha, sigma) or a DM weight (x, x_real, alpha, sigma): positive, finite, broadcastable."""
    for schedule in (Karras(), Discrete.linear(), RectifiedFlow()):
        x, t = torch.randn(ROWS, 2, 3).double(), torch.linspace(0.02, 0.98, ROWS).double()
        alpha, sigma = scales(schedule, t, x)
        matching = "x_real" in signature(weighting).parameters
        found = weighting(x, x + 1, alpha, sigma) if matching else weighting(alpha, sigma)
        say(found.shape == (ROWS, 1, 1), f"a weighting must give one weight per sample, (b, 1, ...), not {found.shape}")
        say((found > 0).all() and found.isfinite().all(), f"a weighting must be positive and finite on {schedule}")


# -- data, metrics, exporters ----------------------------------------------------------------------------------


def check_dataset(dataset: Dataset, teacher: Teacher | None = None) -> None:
    """Position-addressed: item i is the same whenever and in whatever order it is read, and fits the teacher."""
    n = len(dataset)
    say(n >= 1, "a dataset must have at least one item")
    places = sorted({0, n // 2, n - 1})
    for i in chain(places, reversed(places)):
        one, two = dataset[i], dataset[i]
        say(isinstance(one, Example), f"item {i} must be an Example, not {type(one).__name__}")
        say(one.condition == two.condition, f"item {i} has another condition each time: it must be a function of i")
        say((one.x is None) == (two.x is None), f"item {i} must be a function of i")
        if one.x is not None and two.x is not None:
            say(one.x.equal(two.x), f"item {i} differs each time it is read: it must be a function of i")
            say(one.x.dtype == torch.float32 and one.x.isfinite().all(), f"item {i} must be finite float32")
            shape = teacher.shape if teacher is not None else tuple(two.x.shape)
            say(tuple(one.x.shape) == tuple(shape), f"item {i} must have the shape {shape}, not {tuple(one.x.shape)}")
        if teacher is not None:
            teacher.encode([one.condition])


def check_metric(make: Callable[[], Metric], images: Tensor, conditions: Sequence[Raw]) -> None:
    """Images in pieces give what they give at once; real data has the same kind of numbers; all of it is JSON."""
    whole, pieces = make(), make()
    whole.update(images, conditions)
    found = whole.compute()
    say("value" in found, f"compute() must put the metric's own number under 'value'; it has {sorted(found)}")
    say(all(math.isfinite(v) for v in found.values()), f"every number must be finite: {dict(found)}")
    half = len(images) // 3
    pieces.update(images[:half], conditions[:half])
    pieces.update(images[half:], conditions[half:])
    again = pieces.compute()
    near = all(math.isclose(v, again[k], rel_tol=1e-4, abs_tol=1e-6) for k, v in found.items())
    say(near, f"the same images in two updates must give the same numbers: {dict(found)}, {dict(again)}")
    real = whole.real(len(images), 1)
    say(not real or "value" in real, "real() must give the same numbers for real data, or {}: 'value' is missing")
    say(dict(real) == dict(make().real(len(images), 1)), "real(n, seed) must be a function of n and seed")
    say(whole.name, "a metric needs a name that carries its protocol")
    say("direction" in whole.protocol, "protocol must say under 'direction' whether lower or higher is better")
    json.dumps([found, real, dict(whole.protocol)])


def check_exporter(exporter: Exporter, student: Student, out: Path) -> None:
    """It wrote what it says, and nothing half; its answer is JSON; the student still draws what it drew."""
    before = student(n=ROWS)
    found = exporter(student, out)
    say(out.exists(), f"an exporter must write to the path it is given: there is no {out}")
    drafts = [path.name for path in out.parent.iterdir() if path.name.startswith(".")]
    say(not drafts, f"an exporter must leave no drafts behind: {drafts}")
    say("max_pixel_difference" in found, "an exporter must load its result back and return 'max_pixel_difference'")
    say(student(n=ROWS).equal(before), "an exporter must leave the student as it was: it draws other images now")
    json.dumps(dict(found))


def rows_of(s: Sample, rows: slice) -> Sample:
    """Some rows of a micro-batch, as a micro-batch of their own."""
    cond, null, real_cond = ({k: v[rows] for k, v in cond.items()} for cond in (s.cond, s.null, s.real_cond))
    real, raw = None if s.real is None else s.real[rows], s.raw[rows]
    pair = None if s.pair is None else Pair(s.pair.target[rows], s.pair.x[rows].detach())
    return Sample(s.x[rows].detach(), rows, s.total, cond, null, real, real_cond, raw, pair)
