"""A distillation as a job of the trainer: fed by its loader, published as a student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmd2cli import images
from dmd2cli.core.random import Rng
from dmd2cli.data.base import Loader
from dmd2cli.engine import build
from dmd2cli.engine.distillation import Distillation
from dmd2cli.errors import UserError
from dmd2cli.protocols import Dataset, Teacher
from dmd2cli.recipe import Recipe, Use
from dmd2cli.recipe_build import check_options
from dmd2cli.recipe_yaml import place
from dmd2cli.samplers.few_step import FewStep
from dmd2cli.source import Source
from dmd2cli.student import contract, save_student


@dataclass
class DistillJob:
    """A Job of the trainer: the step of a Distillation, fed by its loader, published as a student."""

    recipe: Recipe
    distillation: Distillation
    loader: Loader

    def step(self, step: int) -> Mapping[str, Tensor]:
        rng = Rng(self.recipe.run.seed, step)
        torch.manual_seed(rng.generator("network", torch.device("cpu")).initial_seed())    # for dropout and its like
        return self.distillation.step(self.loader(step, self.distillation.teacher), step)

    def state(self) -> dict[str, Any]:
        d = self.distillation
        return {"players": {"generator": d.generator.state(), "critic": d.critic.state()}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.distillation.generator.load_state(state["players"]["generator"])
        self.distillation.critic.load_state(state["players"]["critic"])

    def source(self) -> Source:
        """What the student draws with, now."""
        d = self.distillation
        return Source(d.teacher, d.generator.best, FewStep(d.times))

    def publish(self, folder: Path, step: int) -> None:
        d = self.distillation
        matching = self.recipe.losses.get("distribution_matching")
        guidance = matching.options.get("guidance", 1.0) if matching else 1.0
        weights = "ema" if d.generator.ema else "raw"
        trained = {"steps": step, "generator_updates": d.generator.updates, "weights": weights}
        found = contract(d.teacher, self._named(), d.times, guidance, trained)
        save_student(folder / "student", d.generator.best, found)

    def _named(self) -> dict[str, Any]:
        """The plugins of the recipe that a student remembers."""
        recipe = self.recipe
        metrics = [as_dict(metric) for metric in recipe.metrics]
        return {"teacher": as_dict(recipe.teacher), "teacher_sampler": as_dict(recipe.sampler), "metrics": metrics}

    def preview(self, path: Path) -> None:
        source, columns = self.source(), min(len(self.distillation.teacher.conditions) or 8, 10)
        drawn = source.images(source.conditions(4 * columns), seed=0)
        images.save_png(images.grid(drawn, columns), path)


def as_dict(use: Use) -> dict[str, Any]:
    """A plugin reference as plain values."""
    return {"use": use.use, **use.options}


def job(recipe: Recipe, device: torch.device) -> DistillJob:
    """The job of a recipe. Raises UserError for whatever in it cannot be built."""
    made = DistillJob(recipe, build.distillation(recipe, device), build.loader(recipe.data, recipe.run, device))
    check_labels(recipe, made.distillation.teacher, made.loader.prompts)
    for i, metric in enumerate(recipe.metrics):
        check_options("metrics", metric, f"metrics.{i}")
    return made


def check_labels(recipe: Recipe, teacher: Teacher, prompts: Dataset | None) -> None:
    """Raise UserError if data.prompts holds a class that the teacher has not: now, not at the step that meets it."""
    asked = {prompts[i].condition for i in range(min(len(prompts), 10_000))} if prompts is not None else set()
    labels = sorted(label for label in asked if isinstance(label, int))
    try:
        if labels:
            teacher.encode(labels)
    except UserError as err:
        raise UserError(f"{place(recipe.places, 'data.prompts')}data.prompts: {err}") from err
