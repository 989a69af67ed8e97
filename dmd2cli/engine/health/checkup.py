"""When a distillation measures itself: the signals of health, and the metric that `best` follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from dmd2cli.data.base import Batch, Loader, condition
from dmd2cli.engine.distillation import Distillation
from dmd2cli.engine.health.health import Health
from dmd2cli.engine.health.probe import Probe
from dmd2cli.engine.health.validation import Drawing, Validator
from dmd2cli.protocols import Raw
from dmd2cli.recipe import Recipe
from dmd2cli.recipe_build import build
from dmd2cli.recipe_health import signals_every
from dmd2cli.source import Source

PROMPTS = 8
"""Fewer texts than these are taken for a fault of the data, not for what there is."""


@dataclass
class Checkup:
    """Of one stage."""

    recipe: Recipe
    health: Health | None
    validator: Validator | None

    def __call__(self, source: Drawing, batches: Sequence[Batch], step: int) -> dict[str, Tensor]:
        """What is due after `step` steps, the last of which was trained on these batches."""
        found, run = dict[str, Tensor](), self.recipe.run
        if self.health is not None and step % self.health.every == 0:
            found |= self.health.signals(source, batches, step)
        averages = self.recipe.student.ema_halflife_images is not None
        if (check := self.validator) is not None:
            due = step % (check.asked.every or run.save_every) == 0 or step == run.steps
            found |= check.measured(source, averages, step) if due else {}
        return found


def checkup(recipe: Recipe, d: Distillation, loader: Loader, guidance: float, before: Validator | None) -> Checkup:
    """Of a stage. guidance: that the student is trained for. before: of the stage before, whose best score counts."""
    world, asked, health = d.generator.world, recipe.health, None
    if (every := signals_every(asked.every, recipe.run.steps)) is not None:
        reads = bool(d.teacher.encode([])[0])
        sampler, real = build("samplers", recipe.sampler, "sampler"), cast(nn.Module, d.nets.real)
        teacher = Source(d.teacher, real, sampler, guidance if reads else 1.0)
        health = Health(d, Probe(d.teacher, loader, teacher, asked.samples, world), every, known(d, loader))
    if asked.validation is None:
        return Checkup(recipe, health, None)
    score = (before.best, before.step, before.since) if before is not None else ()
    return Checkup(recipe, health, Validator(asked.validation, conditions(d, loader), world, *score))


def known(d: Distillation, loader: Loader) -> int:
    """How many different conditions there could be: the teacher's classes, or the texts of the data, if not too few."""
    return len(d.teacher.conditions) or max(PROMPTS, len({*conditions(d, loader)}))


def conditions(d: Distillation, loader: Loader) -> Sequence[Raw]:
    """What the student is asked for in a validation: all classes, or the prompts of the data."""
    if d.teacher.conditions or loader.asked is None:
        return d.teacher.conditions or [None]
    return [condition(loader.asked, i) for i in range(min(len(loader.asked), 10_000))]
