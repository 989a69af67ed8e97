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
from copy import deepcopy
from dataclasses import is_dataclass, replace
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from dmd2cli import registry
from dmd2cli.core.denoiser import Denoiser, guided
from dmd2cli.core.heads import logits
from dmd2cli.core.noise import Discrete, Karras, NoiseSchedule, RectifiedFlow, diffuse, scales
from dmd2cli.core.random import Numbered, Rng
from dmd2cli.data.base import Batch
from dmd2cli.engine import build
from dmd2cli.engine.distillation import Distillation
from dmd2cli.protocols import Dataset, Example, Exporter, Loss, Metric, Raw, Sample, Sampler, Teacher
from dmd2cli.recipe import Recipe
from dmd2cli.samplers.ddim import Ddim
from dmd2cli.source import Source
from dmd2cli.student import Student

ROWS = 4
LOW = 0.01
"""sigma / alpha at which a denoiser has next to nothing left to remove."""
CPU = torch.device("cpu")


def say(ok: object, problem: str) -> None:
    """Raise AssertionError(problem) unless ok: an assert that also works under python -O."""
    if not ok:
        raise AssertionError(problem)


# -- teachers --------------------------------------------------------------------------------------------------


def check_teacher(teacher: Teacher) -> None:
    """All that the engine takes for granted of a Teacher, ending with one whole DMD2 step."""
    check_schedule(teacher.schedule)
    check_encode(teacher)
    check_denoiser(teacher)
    check_low_noise(teacher)
    check_decode(teacher)
    check_features(teacher)
    check_copies(teacher)
    check_step(teacher)


def check_schedule(schedule: NoiseSchedule) -> None:
    """SNR falls from data to noise, and time() inverts the clock on the schedule's own grid."""
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha, sigma = schedule(t)
    say(alpha.shape == sigma.shape == t.shape, "schedule(t) must give alpha and sigma of the shape of t")
    say((alpha >= 0).all() and (sigma >= 0).all(), "alpha and sigma must not be negative")
    say((alpha / sigma)[1:].diff().le(0).all(), "SNR is not monotone: alpha / sigma must fall as t rises from data")
    say(0 < schedule.prior_std < math.inf, "prior_std must be the positive std of the pure-noise input")
    grid = schedule.clock(10)
    say(len(grid) == 10 and grid[0] == 1 and grid.diff().lt(0).all(), "clock(n) must give n falling times from 1 on")
    alpha, sigma = schedule(grid)
    say((alpha / sigma).diff().gt(0).all(), "SNR is not monotone: it must differ between the times of clock(n)")
    back = schedule.time(sigma / alpha)
    say(torch.allclose(back, grid.to(back), atol=1e-6), f"time(sigma / alpha) must invert the clock: {grid} -> {back}")


def check_encode(teacher: Teacher) -> None:
    """One row of condition and one of null condition for each raw one, None included, and the same again."""
    for raw in (some(teacher), some(teacher)[:1], [None] * ROWS):
        cond, null = teacher.encode(raw)
        say(cond.keys() == null.keys(), "encode must give the null condition the same names as the condition")
        rows = {len(value) for value in (*cond.values(), *null.values())}
        say(rows <= {len(raw)}, f"encode must give one row per raw condition: {len(raw)} asked, {sorted(rows)} given")
        again = teacher.encode(raw)[0]
        say(all(cond[k].equal(again[k]) for k in cond), "encode must give the same condition for the same text or label")


def check_denoiser(teacher: Teacher) -> None:
    """x_hat has the right shape and type, and guidance does nothing at scale 1 and all at scale 0."""
    (x_t, t), (cond, null) = noisy(teacher), teacher.encode(some(teacher))
    denoiser = cast(Denoiser, teacher.denoiser)
    with torch.no_grad():
        x_hat = denoiser(x_t, t, cond)
        say(x_hat.shape == x_t.shape, f"x_hat must have the shape of x_t, {tuple(x_t.shape)}, not {tuple(x_hat.shape)}")
        say(x_hat.dtype == torch.float32, f"x_hat must be float32, not {x_hat.dtype}; end the adapter with .float()")
        say(x_hat.isfinite().all(), "x_hat is not finite for t in [0.2, 1]; look at c_noise and c_skip")
        same = guided(denoiser, 1.0, cond, null)(x_t, t).equal(x_hat)
        say(same, "guidance of scale 1 must change nothing, but a second call differs; is dropout off (eval())?")
        x_null = denoiser(x_t, t, null)
        near = torch.allclose(guided(denoiser, 0.0, cond, null)(x_t, t), x_null, rtol=1e-3, atol=1e-3)
        say(near, "guidance of scale 0 must give the null condition: rows of one batch must not influence each other")


def check_low_noise(teacher: Teacher) -> None:
    """D -> x as t -> 0: at sigma / alpha = LOW the error on a sample of its own is a few LOW at most."""
    x, cond = own_samples(teacher), teacher.encode(some(teacher))[0]
    t = teacher.schedule.time(torch.full((ROWS,), LOW, dtype=torch.float64)).clamp(0, 1)
    alpha, sigma = scales(teacher.schedule, t, x)
    with torch.no_grad():
        x_hat = teacher.denoiser(diffuse(x, t, teacher.schedule, Rng(0, 0).normal("eps", x)), t.float(), cond)
    error, ratio = float((x_hat - x).square().mean().sqrt()), float((sigma / alpha).max())
    why = "is this the parametrisation (eps, v, flow, edm) and the c_noise that the network was trained with?"
    say(error <= 3 * ratio, f"x_hat must tend to x as t -> 0, but errs by {error:.3g} at noise {ratio:.3g}; {why}")


def check_decode(teacher: Teacher) -> None:
    """Model units become uint8 RGB, one image per sample."""
    images = teacher.decode(own_samples(teacher))
    say(images.dtype == torch.uint8, f"decode must give uint8 images, not {images.dtype}")
    say(images.ndim == 4 and images.shape[:2] == (ROWS, 3), f"decode must give (b, 3, h, w), not {tuple(images.shape)}")


def check_features(teacher: Teacher) -> None:
    """The features of the student network are float32, carry a gradient to x_t, and fit the head."""
    (x_t, t), cond = noisy(teacher), teacher.encode(some(teacher))[0]
    network = cast(Denoiser, student_network(teacher))
    features = network.features(x_t.requires_grad_(), t, cond)
    say(len(features) == ROWS, f"features() must give one row per sample, not {tuple(features.shape)}")
    say(features.dtype == torch.float32, f"features() must be float32, not {features.dtype}")
    try:
        found = logits(teacher.head(), features)
    except RuntimeError as err:
        raise AssertionError(f"head() does not fit features() of shape {tuple(features.shape)}: {err}") from err
    say(found.shape == (ROWS, 1), f"head() must give one logit (b, 1) per sample, not {tuple(found.shape)}")
    say(found.requires_grad, "features() carry no gradient: compute them without no_grad() or detach()")
    (grad,) = torch.autograd.grad(found.sum(), x_t, allow_unused=True)
    say(grad is not None and grad.any(), "features() carry no gradient to x_t: the GAN could teach the generator nothing")


def check_copies(teacher: Teacher) -> None:
    """Generator and critic start as deep copies that share no weights with each other nor with the teacher."""
    (x_t, t), cond = noisy(teacher), teacher.encode(some(teacher))[0]
    networks = [teacher.denoiser, student_network(teacher), student_network(teacher)]
    own = [{p.data_ptr() for p in network.parameters()} for network in networks]
    why = "hand the network in as an argument, and keep it a submodule, so that copies stay copies"
    say(own[1], f"the student network has no parameters to train; {why}")
    say(not (own[0] & own[1] | own[1] & own[2]), f"copies share storage; {why}")
    with torch.no_grad():
        before = [network(x_t, t, cond) for network in networks]
        for p in networks[1].parameters():
            p.mul_(1.1).add_(0.01)
        moved = [not b.equal(network(x_t, t, cond)) for b, network in zip(before, networks, strict=True)]
    say(moved[1], f"the weights of a copy do not change what it computes: it calls another network; {why}")
    say(not moved[0] and not moved[2], f"changing one copy changes another: both call the same network; {why}")


def check_step(teacher: Teacher) -> None:
    """A generator turn moves the generator alone, a whole step is finite and leaves the teacher as it was."""
    d, batch = distillation(teacher), batch_for(teacher)
    real, critic, generator = (weights(m) for m in (teacher.denoiser, d.critic.module, d.generator.module))

    def losses(b: Batch) -> dict[str, Tensor]:
        return d.losses("generator", d.student(b, Rng(0, 0), grad=True), Rng(0, 0))

    d.generator.update(losses, [batch], 0, frozen=[d.critic])
    say(not weights(d.generator.module).equal(generator), "a generator turn does not move the generator: no gradient?")
    say(weights(d.critic.module).equal(critic), "a generator turn moves the critic: the copies share weights")
    log = d.step([batch], 0)
    bad = [name for name, value in log.items() if not value.isfinite()]
    say(not bad, f"one DMD2 step is not finite: {', '.join(bad)}; look at the weighting, and at alpha or sigma = 0")
    say(not weights(d.critic.module).equal(critic), "a critic turn does not move the critic: no gradient?")
    say(weights(teacher.denoiser).equal(real), "a step moves the teacher: it shares weights with a player")


# -- losses, samplers, weightings ------------------------------------------------------------------------------


def check_loss(loss: Loss, teacher: Teacher | None = None) -> None:
    """A term is a finite mean over its micro-batch, a function of its rng alone, and teaches its own player."""
    say(is_dataclass(loss), "a loss must be a frozen dataclass whose fields are its options")
    say(loss.player in ("generator", "critic"), f"player must be 'generator' or 'critic', not {loss.player!r}")
    teacher = teacher or toy()
    d, batch = distillation(teacher), batch_for(teacher)
    nets, mine = d.nets, {"generator": d.generator, "critic": d.critic}[loss.player]
    s = d.student(batch, Rng(0, 0), grad=loss.player == "generator")
    seen = replace(s, real=s.real if loss.reads_real else None)
    rng = Rng(0, 1).at(s.rows, s.total)
    value = loss(seen, nets, rng)
    say(value.shape == () and value.isfinite(), f"a loss must be one finite number, not {value}")
    torch.manual_seed(1)
    say(loss(seen, nets, rng).equal(value), "a loss must draw from its rng alone: the same rng gave another value")
    say(value.requires_grad, f"a loss without gradient teaches the {loss.player} nothing; is it under no_grad()?")
    grads = torch.autograd.grad(value, mine.parameters, allow_unused=True)
    say(any(g is not None and g.any() for g in grads), f"the gradient does not reach the {loss.player}")
    halves = [slice(0, ROWS // 2), slice(ROWS // 2, ROWS)]
    parts = [loss(rows_of(seen, rows), nets, rng.at(rows, s.total)) for rows in halves]
    near = torch.allclose(torch.stack(parts).mean(), value, rtol=1e-3, atol=1e-6)
    say(near, "a loss must be a mean over its micro-batch: the mean of two halves is not that of the whole")


def check_sampler(sampler: Sampler) -> None:
    """Under every schedule: ends at clean data, calls the network nfe times, and draws from its rng alone."""
    say(is_dataclass(sampler), "a sampler must be a frozen dataclass whose fields are its options")
    for schedule in (Karras(), Discrete.linear(), RectifiedFlow()):
        where, calls = type(schedule).__name__, list[Tensor]()
        noise = Numbered(0, range(ROWS)).normal("noise", torch.empty(ROWS, 2, 3))
        given = noise.clone()

        def denoise(x_t: Tensor, t: Tensor, calls: list[Tensor] = calls) -> Tensor:
            calls.append(t)
            say(x_t.dtype == torch.float32 and t.shape == (ROWS,), "the network must be called with float32 x_t and t (b,)")
            return torch.full_like(x_t, 0.25)

        x = sampler(denoise, schedule, noise, Numbered(0, range(ROWS)))
        say(x.shape == noise.shape and x.dtype == noise.dtype, f"{where}: x must have the shape and type of the noise")
        at_end = torch.allclose(x, torch.full_like(x, 0.25), atol=1e-4)
        say(at_end, f"{where}: the sampler must end at t = 0: a network that always says 0.25 gave {x.flatten()[:3]}")
        say(noise.equal(given), f"{where}: the sampler changes the noise it was given; work on a copy")
        say(len(calls) == sampler.nfe, f"{where}: nfe says {sampler.nfe} network calls per sample, counted {len(calls)}")
        say(all(0 <= float(t.min()) <= float(t.max()) <= 1 for t in calls), f"{where}: times must lie in [0, 1]")
        check_sampler_rng(sampler, schedule, noise)


def check_sampler_rng(sampler: Sampler, schedule: NoiseSchedule, noise: Tensor) -> None:
    """The same noise and streams give the same sample, whatever the global random state."""
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        drawn.append(sampler(lambda x_t, t: 0.5 * x_t, schedule, noise, Numbered(0, range(ROWS))))
    say(drawn[0].equal(drawn[1]), "a sampler must draw from its rng alone, not from torch's global random state")


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
    say("value" in real, "real() must give the same numbers for real data: 'value' is missing")
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


# -- what the checks work with ---------------------------------------------------------------------------------


def some(teacher: Teacher) -> list[Raw]:
    """ROWS conditions of a teacher."""
    return Source(teacher, teacher.denoiser, Ddim()).conditions(ROWS)


def noisy(teacher: Teacher) -> tuple[Tensor, Tensor]:
    """(x_t, t) at times from 0.2 to 1."""
    rng, t, like = Rng(0, 0), torch.linspace(0.2, 1, ROWS), torch.empty(ROWS, *teacher.shape)
    return diffuse(rng.normal("x", like), t, teacher.schedule, rng.normal("eps", like)), t


def own_samples(teacher: Teacher) -> Tensor:
    """Clean samples (ROWS, *shape) as the teacher itself draws them."""
    return Source(teacher, teacher.denoiser, Ddim(10)).latents(some(teacher), 0, range(ROWS))


def student_network(teacher: Teacher) -> nn.Module:
    """What a generator starts from."""
    return deepcopy(teacher.network or teacher.denoiser).requires_grad_(True)


def toy() -> Teacher:
    """A small class-conditional teacher that is exact."""
    return registry.load("teachers", "gmm")(layout="pair", classes=2, width=16, pretrain_steps=0)


def distillation(teacher: Teacher) -> Distillation:
    """A whole distillation of the teacher, every kind of term in it."""
    terms = {"distribution_matching": {"guidance": 2.0}, "gan_generator": {}, "denoising": {}, "gan_critic": {}}
    parts = {"student": {"lr": 1e-3}, "critic": {"lr": 1e-3}, "sampler": {"use": "heun"}, "losses": terms}
    more = {"teacher": {"use": "under-test"}, "data": {"real": {"use": "none"}}, "run": {"steps": 9, "batch": ROWS}}
    with registry.override("teachers", "under-test", lambda: teacher):
        return build.distillation(Recipe.model_validate({**parts, **more}), CPU)


def batch_for(teacher: Teacher) -> Batch:
    """One micro-batch, its real data the teacher's own samples."""
    cond, null = teacher.encode(some(teacher))
    return Batch(slice(0, ROWS), ROWS, cond, null, own_samples(teacher), cond)


def rows_of(s: Sample, rows: slice) -> Sample:
    """Some rows of a micro-batch, as a micro-batch of their own."""
    conds = {k: {n: v[rows] for n, v in getattr(s, k).items()} for k in ("cond", "null", "real_cond")}
    return replace(s, x=s.x[rows].detach(), rows=rows, real=None if s.real is None else s.real[rows], **conds)


def weights(module: nn.Module) -> Tensor:
    """All parameters of a module as one vector."""
    return torch.cat([p.detach().flatten().float() for p in module.parameters()])
