"""The stages of a recipe made ready: terms and data of each, built and checked before the first step."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from dmd2cli import recipe_build
from dmd2cli.data.base import Loader, condition, in_model_units
from dmd2cli.data.corrupt import fetch
from dmd2cli.engine import build
from dmd2cli.engine.distillation import Distillation, Terms
from dmd2cli.engine.parallel import World
from dmd2cli.engine.terms import prefixed, terms
from dmd2cli.errors import UserError
from dmd2cli.prompt_list import OPTIONS as PROMPT_OPTIONS
from dmd2cli.protocols import Dataset, Teacher
from dmd2cli.recipe import Recipe, Use
from dmd2cli.recipe_build import check_options
from dmd2cli.recipe_stages import Stage
from dmd2cli.recipe_yaml import place


@dataclass(frozen=True)
class Phase:
    """A stage, ready to run: its recipe, its terms, its data."""

    stage: Stage
    terms: Terms
    loader: Loader


def phases(stages: Sequence[Stage], d: Distillation, device: torch.device) -> list[Phase]:
    """Every stage of a distillation that was built for the first. Raises UserError for what cannot be built."""
    found, made, world = list[Phase](), memo(partial(fitting, d.teacher)), d.generator.world
    for stage in stages:
        recipe, student = stage.recipe, stage.recipe.student
        of_real = recipe.data.prompts_of_real or "real" in (student.input, student.first_input)
        ours = terms(recipe, d.teacher, d.nets) if found else d.terms
        loader = build.loader(recipe.data, recipe.run, device, of_real, made)
        check_encoded(recipe, d.teacher, loader)
        check_labels(recipe, d.teacher, loader.prompts)
        check_pairs(recipe, d.teacher, loader)
        check_shares(recipe, loader, world)
        check_real(recipe, d.teacher, loader.real, quiet=not world.first)
        for i, metric in enumerate(recipe.metrics):
            check_options("metrics", metric, f"metrics.{i}", beside=PROMPT_OPTIONS)
        found.append(Phase(stage, ours, loader))
    return found


def as_dict(use: Use) -> dict[str, Any]:
    """A plugin reference as plain values."""
    return {"use": use.use, **use.options}


def fitting(teacher: Teacher, kind: str, use: Use, key: str) -> Any:
    """A data set of a recipe, as its teacher needs it."""
    found = recipe_build.build(kind, use, key)
    fit: Callable[[Teacher], Dataset] | None = getattr(found, "for_teacher", None)
    return found if fit is None else prefixed(f"{place(use.places, key)}{key}: ", partial(fit, teacher))


def memo(made: Callable[..., Any]) -> Callable[..., Any]:
    """Build the same reference once: stages mostly share their data sets."""
    kept: dict[str, Any] = {}

    def build(kind: str, use: Use, key: str) -> Any:
        name = json.dumps([kind, as_dict(use)], sort_keys=True)
        if name not in kept:
            kept[name] = made(kind, use, key)
        return kept[name]

    return build


def check_pairs(recipe: Recipe, teacher: Teacher, loader: Loader) -> None:
    """Raise UserError if the pairs are another teacher's, another sampler's, or cannot be used by this student."""
    if loader.pairs is None:
        return
    where = f"{place(recipe.places, 'data.pairs')}data.pairs: "
    if recipe.student.guidance is not None:
        raise UserError(f"{where}pairs have one guidance scale; leave student.guidance out")
    if loader.pairs.matched and len(recipe.student.times) > 1:
        raise UserError(f"{where}matched pairs are for students of one step; set data.pairs.matched=false")
    if (check := getattr(loader.pairs.dataset, "check", None)) is not None:
        prefixed(where, partial(check, teacher, as_dict(recipe.sampler), matching_guidance(recipe)))


def check_shares(recipe: Recipe, loader: Loader, world: World) -> None:
    """Raise UserError unless every micro-batch of every rank gets its share of a batch, and of the pairs with it."""
    own = world.rows(loader.batch)
    parts = {min(loader.micro_batch, own.stop - i) for i in range(own.start, own.stop, loader.micro_batch)}
    if loader.pairs is not None and any(loader.pairs.batch * part % loader.batch for part in parts):
        where = f"{place(recipe.places, 'data.pairs')}data.pairs.batch"
        what = f"{loader.pairs.batch} pairs cannot be shared out evenly among {world.size} ranks"
        raise UserError(f"{where}: {what} and their micro-batches; change it or run.micro_batch")


def matching_guidance(recipe: Recipe) -> float | None:
    """Of the recipe's distribution_matching, None without it."""
    term = recipe.losses.get("distribution_matching")
    return None if term is None else float(term.options.get("guidance", 1.0))


def check_encoded(recipe: Recipe, teacher: Teacher, loader: Loader) -> None:
    """Raise UserError if data that were encoded beforehand are another teacher's."""
    for key, data in (("data.prompts", loader.prompts), ("data.real", loader.real)):
        if (check := getattr(data, "check_teacher", None)) is not None:
            prefixed(f"{place(recipe.places, key)}{key}: ", partial(check, teacher))


def check_real(recipe: Recipe, teacher: Teacher, real: Dataset | None, quiet: bool = False) -> None:
    """Raise UserError unless data.real has samples of the teacher's shape. quiet: leave the note to another rank."""
    example = fetch(real, 0).example if real is not None and len(real) else None
    where = f"{place(recipe.places, 'data.real')}data.real"
    if example is not None and example.x is None:
        raise UserError(f"{where}: has conditions alone, and real data are images or latents; use it as data.prompts")
    if example is not None and example.x is not None and tuple(example.x.shape) != teacher.shape:
        what = f"samples are {tuple(example.x.shape)}, and the teacher's are {tuple(teacher.shape)}"
        if not hasattr(teacher.decode, "latents") or example.x.shape[0] != 3:
            raise UserError(f"{where}: {what}; resize images with `dmd2 data prepare`")
        found = tuple(in_model_units(teacher, example.x[None]).shape[1:])
        if found != teacher.shape:
            what = f"become latents {found}, and the teacher's are {teacher.shape}"
            raise UserError(f"{where}: images {what}; resize them with `dmd2 data prepare`")
        if not quiet:
            print(f"{where}: images are encoded at every step; `dmd2 data cache` does that once", file=sys.stderr)


def check_labels(recipe: Recipe, teacher: Teacher, prompts: Dataset | None) -> None:
    """Raise UserError if data.prompts holds a class that the teacher has not: now, not at the step that meets it."""
    asked = {condition(prompts, i) for i in range(min(len(prompts), 10_000))} if prompts is not None else set()
    labels = sorted(label for label in asked if isinstance(label, int))
    try:
        if labels:
            teacher.encode(labels)
    except UserError as err:
        raise UserError(f"{place(recipe.places, 'data.prompts')}data.prompts: {err}") from err
