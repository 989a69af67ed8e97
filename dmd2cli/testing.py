"""Conformance checks for plugins: call one in a test of your own, and it says in words what breaks the protocol.

    from dmd2cli.testing import check_teacher

    def test_teacher():
        check_teacher(teacher("tiny-random"))

Each raises AssertionError. They run on the CPU, in seconds for a network of toy size.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from dmd2cli import registry
from dmd2cli.core.denoiser import Denoiser, bind, guided
from dmd2cli.core.heads import logits
from dmd2cli.core.noise import Discrete, Karras, NoiseSchedule, RectifiedFlow, diffuse, scales
from dmd2cli.core.random import Numbered, Rng
from dmd2cli.data.base import Batch
from dmd2cli.engine import build
from dmd2cli.engine.distillation import Distillation
from dmd2cli.errors import UserError
from dmd2cli.protocols import Dataset, Example, Exporter, Loss, Metric, Raw, Sampler, Task, Teacher
from dmd2cli.recipe import Recipe
from dmd2cli.samplers.ddim import Ddim
from dmd2cli.student import Student

ROWS = 4
"""Samples per check."""
LOW = 0.01
"""sigma / alpha at which a denoiser has next to nothing left to remove."""


def say(ok: bool, problem: str) -> None:
    """Raise AssertionError(problem) unless ok; unlike assert, also under python -O."""
    if not ok:
        raise AssertionError(problem)


# -- teachers --------------------------------------------------------------------------------------------------


def check_teacher(teacher: Teacher) -> None:
    """All that the engine takes for granted of a Teacher, ending with one whole DMD2 step."""
    check_schedule(teacher.schedule)
    check_encode(teacher)
    check_denoiser(teacher)
    check_decode(teacher)
    check_student_network(teacher)
    check_copies(teacher.network or teacher.denoiser, *inputs(teacher))
    check_step(teacher)


def check_schedule(schedule: NoiseSchedule) -> None:
    """SNR falls from data to noise, and time() inverts the clock on the schedule's own grid."""
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha, sigma = schedule(t)
    say(alpha.shape == sigma.shape == t.shape, "schedule(t) must return alpha and sigma of the shape of t")
    say(bool((alpha >= 0).all() and (sigma >= 0).all()), "alpha and sigma must not be negative; t = 0 is data")
    say(bool((alpha[1:] / sigma[1:]).diff().le(0).all()), "SNR is not monotone: alpha / sigma must fall as t rises")
    say(0 < schedule.prior_std < math.inf, "prior_std must be a positive number: the std of the pure-noise input")
    grid = schedule.clock(10)
    say(float(grid[0]) == 1 and bool(grid.diff().lt(0).all()), "clock(steps) must give falling times that start at 1")
    alpha, sigma = schedule(grid)
    back = schedule.time(sigma / alpha)
    say(torch.allclose(back, grid, atol=1e-6), f"time(sigma / alpha) must be the inverse of the clock: {grid} -> {back}")


def check_encode(teacher: Teacher) -> None:
    """As many rows of condition and of null condition as were asked for, None included."""
    for raw in (some(teacher), some(teacher)[:1], [None] * ROWS):
        cond, null = teacher.encode(raw)
        say(cond.keys() == null.keys(), "encode must give the null condition the same names as the condition")
        rows = {len(value) for value in (*cond.values(), *null.values())}
        say(rows <= {len(raw)}, f"encode must give one row per raw condition: {len(raw)} asked, {rows} found")


def check_denoiser(teacher: Teacher) -> None:
    """x_hat has the right shape and type, tends to x as t -> 0, and guidance of scale 1 changes nothing."""
    (x_t, t), (cond, null) = inputs(teacher), teacher.encode(some(teacher))
    denoiser = cast(Denoiser, teacher.denoiser)
    with torch.no_grad():
        x_hat = denoiser(x_t, t, cond)
        say(x_hat.shape == x_t.shape, f"x_hat must have the shape of x_t, {tuple(x_t.shape)}, got {tuple(x_hat.shape)}")
        say(x_hat.dtype == torch.float32, f"x_hat must be float32, got {x_hat.dtype}; end the adapter with .float()")
        say(bool(x_hat.isfinite().all()), "x_hat is not finite at t between 0.2 and 1; look at c_noise and c_skip")
        same = torch.equal(guided(denoiser, 1.0, cond, null)(x_t, t), x_hat)
        say(same, "guidance of scale 1 must change nothing: two calls with one input differ; is it in eval mode?")
        none = guided(denoiser, 0.0, cond, null)(x_t, t)
        near = torch.allclose(none, denoiser(x_t, t, null), atol=1e-3 * float(none.abs().max()))
        say(near, "guidance of scale 0 must be the null condition: a row depends on the other rows of its batch")
    check_low_noise(teacher)


def check_low_noise(teacher: Teacher) -> None:
    """At sigma / alpha = LOW, what a denoiser says of a sample of its own is wrong by a few LOW at most."""
    x, cond = own_samples(teacher), teacher.encode(some(teacher))[0]
    t = teacher.schedule.time(torch.full((ROWS,), LOW, dtype=torch.float64)).clamp(0, 1)
    alpha, sigma = scales(teacher.schedule, t, x)
    with torch.no_grad():
        x_hat = teacher.denoiser(diffuse(x, t, teacher.schedule, Rng(0, 0).normal("eps", x)), t.float(), cond)
    error, ratio = float((x_hat - x).square().mean().sqrt()), float((sigma / alpha).max())
    advice = "is the parametrisation (eps, v, flow, edm) or c_noise that of another network?"
    say(error <= 3 * ratio, f"x_hat must tend to x as t -> 0: error {error:.3g} at sigma / alpha = {ratio:.3g}; {advice}")


def check_decode(teacher: Teacher) -> None:
    """Model units become uint8 RGB, one image per sample."""
    images = teacher.decode(own_samples(teacher))
    say(images.dtype == torch.uint8, f"decode must give uint8 images, got {images.dtype}")
    say(images.ndim == 4 and images.shape[:2] == (ROWS, 3), f"decode must give (b, 3, h, w), got {tuple(images.shape)}")


def check_student_network(teacher: Teacher) -> None:
    """Its features are float32, carry a gradient to x_t, and fit the head."""
    (x_t, t), cond = inputs(teacher), teacher.encode(some(teacher))[0]
    network = cast(Denoiser, deepcopy(teacher.network or teacher.denoiser).requires_grad_(True))
    features = network.features(x_t.requires_grad_(), t, cond)
    say(len(features) == ROWS, f"features() must have one row per sample, got {tuple(features.shape)}")
    say(features.dtype == torch.float32, f"features() must be float32, got {features.dtype}")
    try:
        found = logits(teacher.head(), features)
    except RuntimeError as err:
        raise AssertionError(f"head() does not fit features() of shape {tuple(features.shape)}: {err}") from err
    say(found.shape == (ROWS, 1), f"head() must give one logit (b, 1) per sample, got {tuple(found.shape)}")
    (grad,) = torch.autograd.grad(found.sum(), x_t, allow_unused=True)
    say(grad is not None and bool(grad.any()), "features() carry no gradient to x_t: the GAN could teach nothing")


def check_copies(network: nn.Module, x_t: Tensor, t: Tensor) -> None:
    """Generator and critic are deep copies: they share no storage with each other nor with the teacher."""
    one, two = deepcopy(network), deepcopy(network)
    say(any(True for _ in one.parameters()), "the student network has no parameters: register it as a submodule")
    common = {p.data_ptr() for p in one.parameters()} & {p.data_ptr() for n in (two, network) for p in n.parameters()}
    say(not common, f"copies share the storage of {len(common)} parameters: weights must be the module's own")
    classes = {len(value) for value in ()}
    say(not classes, "")


def check_step(teacher: Teacher) -> None:
    """A generator turn moves the generator alone; a whole step moves both players and gives finite numbers."""


# -- the other kinds -------------------------------------------------------------------------------------------
