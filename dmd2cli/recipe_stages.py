"""Stages: the parts of a run in which its recipe reads differently, one after the other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from dmd2cli.errors import UserError
from dmd2cli.recipe_errors import Loc, fields_at, validated
from dmd2cli.recipe_merge import merge
from dmd2cli.recipe_parts import Recipe
from dmd2cli.recipe_yaml import Located, dotted, place

FIXED = (
    "extends", "preset", "stages", "tiers", "teacher", "student.times", "student.guidance", "critic.head",
    "critic.per_call", "student.lora", "student.init", "critic.lora", "shared_base", "run.steps", "run.seed",
    "run.device", "run.precision", "run.tf32", "run.teacher_weights", "run.checkpointing", "run.compile",
    "run.channels_last", "run.optimiser", "run.offload", "run.parallel", "run.shard_size", "run.timeout",
    "run.save_async",
)  # fmt: skip
"""Keys of the whole recipe, which no stage may have."""


@dataclass(frozen=True)
class Stage:
    """Steps first <= step < until of a run, counted from 0 at its start, and the whole recipe that holds in them.

    Its recipe has no stages of its own, and the run.steps of the whole run.
    """

    first: int
    until: int
    recipe: Recipe


def staged(recipe: Recipe) -> list[Stage]:
    """The stages that a run of recipe.run.steps reaches, the last of them cut there; one if the recipe has none.

    Raises UserError, with its place, for whatever is wrong with any stage, but plugin names: recipe_build.check().
    """
    steps = recipe.run.steps
    if not recipe.stages:
        return [Stage(0, steps, recipe)]
    ends = _ends(recipe)
    found = zip([0, *ends], ends, stage_recipes(recipe), strict=False)
    return [Stage(first, min(until, steps), part) for first, until, part in found if first < steps]


def stage_recipes(recipe: Recipe) -> list[Recipe]:
    """The recipe of every stage: the base with the stages up to this one laid over it, in order."""
    found = [recipe.model_copy(update={"stages": ()})]
    for i, stage in enumerate(recipe.stages):
        found.append(_next(found[-1], stage, f"stages.{i}"))
    return found[1:]


def _next(before: Recipe, stage: dict[str, Any], prefix: str) -> Recipe:
    """One stage laid over the recipe before it; prefix: its key."""
    for key in FIXED:
        if _holds(stage, key.split(".")):
            name = f"{prefix}.{key}"
            raise UserError(f"{place(before.places, name)}{name}: belongs to the whole run; move it out of stages")
    values = {key: value for key, value in stage.items() if key != "until"}
    places = {k.removeprefix(f"{prefix}."): at for k, at in before.places.items() if k.startswith(f"{prefix}.")}
    base = before.model_dump(mode="json", exclude={"stages"})
    return validated(Recipe, merge(Located(base, before.places), Located(values, places)), _allowed, prefix)


def _allowed(loc: Loc) -> list[str]:
    """Keys that a stage may have at `loc`."""
    names = [name for name in fields_at(Recipe, loc) if dotted(*loc, name) not in FIXED]
    return names if loc else [*names, "until"]


def _holds(values: Any, key: list[str]) -> bool:
    return not key or (isinstance(values, dict) and key[0] in values and _holds(values[key[0]], key[1:]))


def _ends(recipe: Recipe) -> list[int]:
    """The step at which each stage ends, rising; the last is at least run.steps."""
    steps, ends = recipe.run.steps, [0]
    for i, stage in enumerate(recipe.stages):
        last, until, key = i == len(recipe.stages) - 1, stage.get("until"), f"stages.{i}.until"
        at = f"{place(recipe.places, key)}{key}"
        if until is None and not last:
            raise UserError(f"{at} is missing: only the last stage may leave it out; add it, or pass {key}=STEP")
        if until is None:
            until = max(steps, ends[-1] + 1)
        if not isinstance(until, int) or isinstance(until, bool) or until < 1:
            raise UserError(f"{at}: must be a whole number of steps above 0, got {json.dumps(until)}")
        if until <= ends[-1]:
            raise UserError(f"{at}: {until} is not after stages.{i - 1}.until = {ends[-1]}; raise it")
        if last and until < steps:
            raise UserError(f"{at}: the last stage ends at {until}, run.steps is {steps}; raise it, or leave it out")
        ends.append(until)
    return ends[1:]
