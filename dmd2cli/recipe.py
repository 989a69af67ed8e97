"""Recipes in and out: load() one from YAML, dump() it resolved, list its differences() from another.

Compare recipes with differences(): `==` also asks whether both came from the same lines of the same file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from dmd2cli import __version__, registry
from dmd2cli.errors import UserError
from dmd2cli.recipe_errors import Loc, fields_at, validated
from dmd2cli.recipe_files import preset, presets, resolve
from dmd2cli.recipe_parts import (
    AnyRecipe,
    Averaged,
    Critic,
    Data,
    Optimiser,
    PretrainRecipe,
    Recipe,
    Run,
    Student,
    Term,
    Use,
)
from dmd2cli.recipe_stages import FIXED, staged
from dmd2cli.recipe_yaml import Located, dotted, write

__all__ = [
    "AnyRecipe", "Averaged", "Critic", "Data", "Optimiser", "PretrainRecipe", "Recipe", "Run", "Student", "Term", "Use",
    "differences", "dump", "leaves", "load", "load_any", "schema",
]  # fmt: skip

R = TypeVar("R", Recipe, PretrainRecipe)


@overload
def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe: ...
@overload
def load(path: str | Path, overrides: Sequence[str] = (), *, model: type[R]) -> R: ...
def load(path: str | Path, overrides: Sequence[str] = (), *, model: Any = Recipe) -> Any:
    """Read a recipe from disk, else the packaged one of that name, with KEY=VALUE overrides and tier=NAME.

    Raises UserError, one line with file and line, for all that is wrong with it but plugin names: those are
    checked by recipe_build.check().
    """
    found = resolve(path, overrides)
    if _model(found) is not model:
        command = "distill" if model is PretrainRecipe else "pretrain"
        raise UserError(f"{path}: not a recipe for this command; use dmd2 {command} {path}")
    return _validated(found)


def load_any(path: str | Path, overrides: Sequence[str] = ()) -> AnyRecipe:
    """load() for either kind of recipe."""
    return _validated(resolve(path, overrides))


def dump(recipe: AnyRecipe) -> str:
    """The recipe as YAML with every default written out; load() gives the same recipe back."""
    data = recipe.model_dump(mode="json")
    if isinstance(recipe, Recipe) and recipe.preset is not None:
        terms = preset(recipe.preset).data.get("losses", {})
        data["losses"] |= {name: None for name in terms if name not in recipe.losses}     # load() lays the preset below
    return f"# Resolved by dmd2 {__version__}: overrides applied, defaults written out.\n{write(data)}"


def differences(old: AnyRecipe, new: AnyRecipe) -> list[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) of every field or option that differs; None for a key not there."""
    before, after = dict(leaves(old.model_dump(mode="json"))), dict(leaves(new.model_dump(mode="json")))
    return [(k, before.get(k), after.get(k)) for k in before | after if before.get(k) != after.get(k)]


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all that holds nothing with a key of its own; a list of plain values is one."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = dict(enumerate(value))
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves(inner, dotted(key, name))
    else:
        yield key, value


def schema() -> dict[str, Any]:
    """JSON schema of a recipe file for editors, with the loss names and presets that are installed.

    Nothing is required in it: a preset, a parent recipe or an override may give any key.
    """
    made = Recipe.model_json_schema()
    parts, fields = made["$defs"], made["properties"]
    for part in (made, *(parts[name] for name in parts if name != "Use")):
        part.pop("required", None)
    parts |= {name: {"anyOf": [{"type": "string"}, parts[name]]} for name in ("Use", "Pairs")}
    term = {"anyOf": [{"$ref": "#/$defs/Term"}, {"type": "null"}]}
    terms = dict.fromkeys(registry.names("losses"), term)
    fields["losses"] = {"type": "object", "properties": terms, "additionalProperties": False}
    fields["preset"] |= {"anyOf": [{"enum": list(presets())}, {"type": "null"}]}
    until = {"type": "integer", "exclusiveMinimum": 0, "description": "the step at which it ends; the last: run.steps"}
    of_stage = {name: field for name, field in fields.items() if name not in FIXED} | {"until": until}
    parts["Stage"] = {"type": "object", "properties": of_stage, "additionalProperties": False}
    fields["stages"]["items"] = {"$ref": "#/$defs/Stage"}
    made["properties"] |= {
        "extends": {"type": "string", "description": "one recipe that this one is laid over"},
        "tiers": {"type": "object", "additionalProperties": {"$ref": "#"}, "description": "for tier=NAME"},
    }
    return made


def _model(found: Located) -> type[AnyRecipe]:
    return PretrainRecipe if "task" in found.data else Recipe


def _validated(found: Located) -> AnyRecipe:
    model = _model(found)

    def allowed(loc: Loc) -> list[str]:
        return [*fields_at(model, loc), *(() if loc else ("extends", "tiers"))]

    recipe = validated(model, found, allowed)
    if isinstance(recipe, Recipe):
        staged(recipe)
    return recipe
