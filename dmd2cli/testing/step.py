"""Checks of a teacher in use: who moves on whose turn, a whole step, a student that is saved and loaded."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import torch
from torch import Tensor

from dmd2cli import registry
from dmd2cli.core.random import Rng
from dmd2cli.data.base import Batch
from dmd2cli.engine.distill import job
from dmd2cli.protocols import Teacher
from dmd2cli.student import load_student
from dmd2cli.testing.said import say
from dmd2cli.testing.setting import NAME, ROWS, batch_for, distillation, recipe, weights


def players(teacher: Teacher) -> None:
    """A generator turn moves the generator alone: no gradient reaches the critic."""
    d, batch = distillation(teacher), batch_for(teacher)
    critic, generator = weights(d.critic.module), weights(d.generator.module)

    def losses(b: Batch) -> dict[str, Tensor]:
        return d.losses("generator", d.student(b, Rng(0, 0), grad=True), Rng(0, 0))

    d.generator.update(losses, [batch], 0, frozen=[d.critic])
    say(not weights(d.generator.module).equal(generator), "a generator turn does not move the generator: no gradient?")
    say(weights(d.critic.module).equal(critic), "a generator turn moves the critic: the copies share weights")
    collected = any(p.grad is not None for p in d.critic.parameters)
    say(not collected, "a generator turn leaves a gradient in the critic: the copies share weights")


def step(teacher: Teacher) -> None:
    """A whole DMD2 step is finite, moves the critic, and leaves the teacher as it was."""
    d = distillation(teacher)
    real, critic = weights(teacher.denoiser), weights(d.critic.module)
    log = d.step([batch_for(teacher)], 0)
    bad = [name for name, value in log.items() if not value.isfinite()]
    say(not bad, f"one DMD2 step is not finite: {', '.join(bad)}; look at the weighting, and at alpha or sigma = 0")
    say(not weights(d.critic.module).equal(critic), "a critic turn does not move the critic: no gradient?")
    say(weights(teacher.denoiser).equal(real), "a step moves the teacher: it shares weights with a player")


# -- of the function that makes it -----------------------------------------------------------------------------


def same_again(make: Callable[..., Teacher]) -> None:
    """Called twice, the function gives the same weights, whatever torch's global random state."""
    made = list[Tensor]()
    for seed in (1, 2):
        torch.manual_seed(seed)
        one = make()
        made.append(torch.cat([weights(one.denoiser), weights(one.network or torch.nn.Identity())]))
    say(made[0].equal(made[1]), "two calls give other weights: read them from a file, or draw them from their own seed")


def student(make: Callable[..., Teacher]) -> None:
    """A student is saved with the teacher's details, and loaded by skeleton, without the teacher's weights."""
    teacher = make()
    try:
        json.dumps(dict(teacher.details))
    except TypeError as err:
        say(False, f"details must be JSON values, as a student's file holds them: {err}")
    why = "or no student of it could be loaded"
    say(takes_skeleton(make), f"the function must take skeleton: Mapping | None = None, {why}")
    with tempfile.TemporaryDirectory() as folder, registry.override("teachers", NAME, make):
        made = job(recipe(teacher, gan=False), torch.device("cpu"))
        made.publish(Path(folder), 0)
        with made.source() as source:
            before = source.images(source.conditions(ROWS), 0)
        again = load_student(folder)(n=ROWS)
    say(again.equal(before), "a student that is saved and loaded draws other images: is all it needs in details?")


def without_default(make: Callable[..., Teacher]) -> list[str]:
    """The options that a teacher function cannot be called without."""
    return [p.name for p in signature(make).parameters.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]


def takes_skeleton(make: Callable[..., Teacher]) -> bool:
    """Whether a teacher function can make its networks without the weights of its checkpoint."""
    return "skeleton" in signature(make).parameters
