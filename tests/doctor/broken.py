"""Runs of the digits that are broken on purpose, and healthy ones: what the rules were calibrated and are tested on.

    python tests/doctor/broken.py NAME FOLDER [SEED]
"""

from __future__ import annotations

import math
import sys
from collections import deque
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from dmd2_plugins.digits import teacher as digits
from dmd2_plugins.digits.data import Digits

from dmd2cli import registry
from dmd2cli.core.parametrization import eps, v
from dmd2cli.engine.distill import job
from dmd2cli.engine.distillation import Distillation
from dmd2cli.engine.player import Player
from dmd2cli.engine.run import run
from dmd2cli.recipe import load

SHORT = (
    "run.steps=800", "run.log_every=50", "run.save_every=400", "run.preview_every=null", "run.threads=1",
    "health.every=50", "critic.lag_every=100", "health.validation.use=fd-digits", "health.validation.every=200",
    "health.validation.n=500",
)  # fmt: skip
NO_GAN = ("losses.gan_generator=null", "losses.joint_critic=null", "losses.denoising.weight=1.0")


@dataclass(frozen=True)
class Case:
    """A run. rule: what the doctor must say first; None: nothing. Where the cause is not among its rules, UNKNOWN."""

    rule: str | None = None
    overrides: tuple[str, ...] = ()
    recipe: str = "digits"
    patch: Any = nullcontext
    held_out: bool = False
    """Whether no threshold was chosen with it in sight."""


@contextmanager
def teacher(change):
    """The digits teacher with its denoiser changed."""

    def made(weights=None, skeleton=None):
        found = digits.teacher(weights, skeleton)
        change(found.denoiser)
        return found

    with registry.override("teachers", "digits", made):
        yield


def read_as(parametrization, denoiser):
    denoiser.parametrization = parametrization


def told(factor, denoiser):
    """The network is told another sigma than that of its input."""
    denoiser.c_noise = lambda t: (factor * denoiser.schedule(t)[1]).log() / 4


@contextmanager
def put(owner, name, made):
    """owner.name is replaced meanwhile. made: the real one -> another."""
    real = getattr(owner, name)
    setattr(owner, name, made(real))
    try:
        yield
    finally:
        setattr(owner, name, real)


def old_samples(real, delay=50):
    """The critic learns from what the student drew some steps ago."""
    held: deque = deque(maxlen=delay)

    def student(self, batch, rng, grad):
        s = real(self, batch, rng, grad)
        if grad or "lag" in rng.name or "health" in rng.name:
            return s
        held.append(s)
        return held[0]

    return student


def not_finite(real, every=7):
    """One update in so many."""

    def update(self, loss, batches, step, *rest, **named):
        def bad(batch):
            return {name: value * (math.nan if step % every == 0 else 1) for name, value in loss(batch).items()}

        return real(self, bad, batches, step, *rest, **named)

    return update


class Few:
    """The same eight digits, again and again."""

    def __init__(self):
        self.all = Digits()

    def __len__(self):
        return len(self.all)

    def __getitem__(self, i):
        return self.all[i % 8]


BROKEN = {
    "wrong parametrisation (eps)": Case("teacher-error", patch=lambda: teacher(partial(read_as, eps))),
    "wrong parametrisation (v)": Case("teacher-error", patch=lambda: teacher(partial(read_as, v))),
    "sigma told x 2": Case("teacher-noise", patch=lambda: teacher(partial(told, 2.0))),
    "sigma told x 0.5": Case("teacher-noise", patch=lambda: teacher(partial(told, 0.5))),
    "ttur 1": Case("critic-lag", ("ttur=1",)),
    "critic 10 x too slow": Case("critic-lag", ("critic.lr=1.0e-4",)),
    "stale samples": Case("critic-lag", patch=lambda: put(Distillation, "student", old_samples)),
    "GAN weight x 100": Case("gan-weight", ("losses.gan_generator.weight=3.0",)),
    "guidance 8": Case("guidance", ("losses.distribution_matching.guidance=8.0",)),
    "collapsed labels": Case("conditions", ("data.prompts.classes=1",)),
    "EMA too long": Case("average", ("student.ema_halflife_images=1.0e+8", "student.ema_ramp=null")),
    "batch of 4": Case("batch", ("run.batch=4",), held_out=True),
    "stale data": Case(
        "real-data", ("data.real=few",), patch=lambda: registry.override("datasets", "few", Few), held_out=True
    ),
    "NaN in one update of 7": Case("finite", patch=lambda: put(Player, "update", not_finite), held_out=True),
    "student rate x 10": Case("UNKNOWN", ("student.lr=1.0e-2", "critic.lr=1.0e-2"), held_out=True),
}
HEALTHY = {
    "1 step": Case(),
    "no GAN": Case(overrides=NO_GAN),
    "4 steps": Case(recipe="digits-4step"),
    "DMD1": Case(recipe="digits-dmd1"),
}
CASES = BROKEN | HEALTHY
CALIBRATED = 0
"""The seed of the runs that thresholds were chosen on."""
SEEDS = {"1 step": (11, 12, 13, 14), "no GAN": (11, 12), "4 steps": (11, 12), "DMD1": (11, 12)}
"""Of the healthy runs that the rules are tested on."""


def train(name: str, folder: Path, pairs: Path, seed: int = CALIBRATED) -> Path:
    """Train a case; returns its run folder. pairs: the teacher's noise-image pairs, for DMD1."""
    case = CASES[name]
    more = [f"data.pairs.path={pairs}"] if case.recipe == "digits-dmd1" else []
    with case.patch():
        command = f"dmd2 distill {case.recipe} -o {folder}"
        run(load(case.recipe, [*SHORT, *case.overrides, *more, f"run.seed={seed}"]), folder, job, command=command)
    return folder


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(sys.argv[1], Path(sys.argv[2]), Path("pairs"), int((sys.argv[3:] or [CALIBRATED])[0]))
