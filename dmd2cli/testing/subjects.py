"""For each kind of plugin: which checks there are, and what each is given."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmd2cli import registry
from dmd2cli.engine.distill import job
from dmd2cli.protocols import Raw, Task, Teacher
from dmd2cli.published import Published
from dmd2cli.recipe_build import build
from dmd2cli.recipe_parts import Use
from dmd2cli.samplers.ddim import Ddim
from dmd2cli.source import Source
from dmd2cli.student import Student, load_student
from dmd2cli.testing import dataset, exporter, extractor, loss, metric, reward, sampler, step, teacher
from dmd2cli.testing.said import Check, say
from dmd2cli.testing.schedule import check_weighting
from dmd2cli.testing.setting import recipe

IMAGES = 48
"""Images that metrics and feature spaces are checked with."""
BESIDE = "digits"
"""The teacher whose images, and students, plugins are checked with unless another is named."""

Pairs = Iterable[tuple[Check, Any]]
"""Checks, each with its subject."""


@dataclass(frozen=True)
class Asked:
    """A registered plugin with options, and what is to stand beside it: a teacher, a student."""

    kind: str
    use: Use
    beside: Use | None = None
    student: str | None = None

    def make(self, **given: Any) -> Any:
        """The plugin, built as a recipe would."""
        return build(self.kind, self.use, self.use.use, **given)

    @cached_property
    def factory(self) -> Any:
        """What is registered."""
        return registry.load(self.kind, self.use.use)

    @cached_property
    def teacher(self) -> Teacher | None:
        """The teacher that is named, if one is."""
        return None if self.beside is None else build("teachers", self.beside, "--teacher")

    @property
    def painter(self) -> Teacher:
        """The teacher that is named, or one of ours."""
        return self.teacher or build("teachers", Use(use=BESIDE), "teacher")

    def images(self, raw: list[Raw]) -> Tensor:
        """uint8 images (b, 3, h, w) of a teacher for some conditions."""
        return Source(self.painter, self.painter.denoiser, Ddim(10)).images(raw, 0)


def pairs(asked: Asked, folder: Path) -> Pairs:
    """All checks of a plugin. Raises whatever building it raises. folder: an empty one, for what it writes."""
    return {
        "teachers": of_teacher, "losses": of_loss, "samplers": of_sampler, "datasets": of_dataset,
        "metrics": of_metric, "extractors": of_extractor, "exporters": of_exporter, "weightings": of_weighting,
        "rewards": of_reward, "pretraining": of_task, "converters": of_converter, "students": of_published,
    }[asked.kind](asked, folder)  # fmt: skip


def of_teacher(asked: Asked, folder: Path) -> Pairs:
    """Those of the Teacher, and those of the function that makes it."""
    made: Teacher = asked.make()
    say(isinstance(made, Teacher), f"a teacher function must return a dmd2cli.protocols.Teacher, not {named(made)}")
    again = remaking(asked)
    return [(check, made) for check in teacher.CHECKS] + [(step.same_again, again), (step.student, again)]


def remaking(asked: Asked) -> Callable[..., Teacher]:
    """The teacher function with the options bound in; by skeleton, as a student is loaded, without them."""

    def make(skeleton: Any = None) -> Teacher:
        if skeleton is None:
            return asked.make()
        bare = step.without_default(asked.factory)
        say(not bare, f"option {', '.join(bare)} needs a default: a student is loaded by its skeleton alone")
        return asked.factory(skeleton=skeleton)

    def plain() -> Teacher:
        return asked.make()

    return make if step.takes_skeleton(asked.factory) else plain


def of_loss(asked: Asked, folder: Path) -> Pairs:
    """Those of a term in a distillation."""
    trial = loss.Trial(asked.make(), asked.teacher)
    return [(check, trial) for check in loss.CHECKS]


def of_sampler(asked: Asked, folder: Path) -> Pairs:
    """Those of a sampler under three schedules."""
    made = asked.make()
    return [(check, made) for check in sampler.CHECKS]


def of_dataset(asked: Asked, folder: Path) -> Pairs:
    """Those of its first, middle and last items."""
    reading = dataset.Reading(asked.make(), asked.teacher)
    return [(check, reading) for check in dataset.CHECKS]


def of_metric(asked: Asked, folder: Path) -> Pairs:
    """Its images are a teacher's; as many of one condition as it compares, and told in words if it reads prompts."""
    made, painter = asked.make(), asked.painter
    several = getattr(made, "per_prompt", 1)
    raw: list[Raw] = [(list(painter.conditions) or [None])[i % max(1, len(painter.conditions))] for i in range(IMAGES)]
    raw = [raw[i - i % several] for i in range(IMAGES)] if isinstance(several, int) and several > 1 else raw
    told: list[Raw] = [f"the digit {label}" for label in raw] if getattr(made, "reads_prompts", False) else raw
    measuring = metric.Measuring(asked.make, asked.images(raw), told)
    return [(check, measuring) for check in metric.CHECKS]


def of_extractor(asked: Asked, folder: Path) -> Pairs:
    """Those of its vectors of a teacher's images."""
    painter = asked.painter
    raw = Source(painter, painter.denoiser, Ddim()).conditions(IMAGES // 2)
    looking = extractor.Looking(asked.make, asked.images(raw))
    return [(check, looking) for check in extractor.CHECKS]


def of_exporter(asked: Asked, folder: Path) -> Pairs:
    """Those of what it writes of a student."""
    found = some_student(asked, folder) if asked.student is None else load_student(asked.student)
    (folder / "written").mkdir()
    done = exporter.exported(asked.factory, found, folder / "written" / "student")
    return [(check, done) for check in exporter.CHECKS]


def some_student(asked: Asked, folder: Path) -> Student:
    """An untrained student of one network call."""
    use = asked.beside or Use(use=BESIDE)
    job(recipe(asked.painter, gan=False, use=use), torch.device("cpu")).publish(folder / "run", 0)
    return load_student(folder / "run")


def of_weighting(asked: Asked, folder: Path) -> Pairs:
    """The weighting itself."""
    return [(check_weighting, asked.factory)]


def of_reward(asked: Asked, folder: Path) -> Pairs:
    """Those of a reward of a teacher's images, or of random ones."""
    judging = reward.judging(asked.make(), asked.teacher)
    return [(check, judging) for check in reward.CHECKS]


def of_task(asked: Asked, folder: Path) -> Pairs:
    """That it is a Task."""
    return [(task, asked.make())]


def task(made: Task) -> None:
    """It is a Task: a network with weights, a loss, details in JSON."""
    say(isinstance(made, Task), f"a pretraining function must return a dmd2cli.protocols.Task, not {named(made)}")
    say(isinstance(made.network, nn.Module), f"its network must be an nn.Module, not {named(made.network)}")
    say(any(p.requires_grad for p in made.network.parameters()), "its network has no parameters to train")
    json.dumps(dict(made.details))


def of_converter(asked: Asked, folder: Path) -> Pairs:
    """None beyond that it can be built: a converter needs a file of its family."""
    asked.make()
    return []


def of_published(asked: Asked, folder: Path) -> Pairs:
    """None beyond its type: what it names may be gigabytes."""
    made = asked.make()
    say(isinstance(made, Published), f"a student function must return a published.Published, not {named(made)}")
    return []


def named(thing: object) -> str:
    """The type of a thing, for messages."""
    return type(thing).__name__

