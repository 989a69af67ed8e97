"""Recipes in and out: load() one from YAML, dump() it resolved, list its differences() from another.

Compare recipes with differences(): `==` also asks whether both came from the same lines of the same file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

from pydantic import BaseModel, ValidationError

from dmd2cli import __version__, registry
from dmd2cli.errors import UserError
from dmd2cli.recipe_errors import explain
from dmd2cli.recipe_files import resolve
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
from dmd2cli.recipe_yaml import Located, dotted, write

__all__ = [
    "AnyRecipe", "Averaged", "Critic", "Data", "Optimiser", "PretrainRecipe", "Recipe", "Run", "Student", "Term", "Use",
    "differences", "dump", "load", "load_any", "schema",
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
    body = write(recipe.model_dump(mode="json"))
    return f"# Resolved by dmd2 {__version__}: overrides applied, defaults written out.\n{body}"


def differences(old: AnyRecipe, new: AnyRecipe) -> list[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) of every field or option that differs; None for a key not there."""
    before, after = dict(_leaves(old.model_dump(mode="json"))), dict(_leaves(new.model_dump(mode="json")))
    return [(k, before.get(k), after.get(k)) for k in before | after if before.get(k) != after.get(k)]


def schema() -> dict[str, Any]:
    """JSON schema of a recipe file for editors, with the loss names that are installed.

    Nothing is required in it: a parent recipe or an override may give any key.
    """
    made = Recipe.model_json_schema()
    parts = made["$defs"]
    for part in (made, *(parts[name] for name in parts if name != "Use")):
        part.pop("required", None)
    parts["Use"] = {"anyOf": [{"type": "string"}, parts["Use"]]}
    term = {"anyOf": [{"$ref": "#/$defs/Term"}, {"type": "null"}]}
    terms = dict.fromkeys(registry.names("losses"), term)
    made["properties"] |= {
        "losses": {"type": "object", "properties": terms, "additionalProperties": False},
        "extends": {"type": "string", "description": "one recipe that this one is laid over"},
        "tiers": {"type": "object", "additionalProperties": {"$ref": "#"}, "description": "for tier=NAME"},
    }
    return made


def _model(found: Located) -> type[AnyRecipe]:
    return PretrainRecipe if "task" in found.data else Recipe


def _validated(found: Located) -> AnyRecipe:
    model = _model(found)
    try:
        return model.model_validate_json(json.dumps(found.data), context=found.places)
    except ValidationError as err:
        raise explain(err, found.places, partial(_allowed, model), needed=partial(_leaf, model)) from err


def _part(model: type[BaseModel], loc: Sequence[str | int]) -> Any:
    """The annotation of the field at `loc`, the model itself at (); None inside lists and options."""
    part: Any = model
    for name in loc:
        field = getattr(part, "model_fields", {}).get(name)
        part = field.annotation if field else None
    return part


def _allowed(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    return [*_part(model, loc).model_fields, *(() if loc else ("extends", "tiers"))]


def _leaf(model: type[BaseModel], loc: Sequence[str | int]) -> str:
    """The first required key at or below a missing one: what an override has to name."""
    part = _part(model, loc)
    required = [name for name, field in getattr(part, "model_fields", {}).items() if field.is_required()]
    return _leaf(model, (*loc, required[0])) if required else dotted(*loc)


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, dotted(key, name))
    else:
        yield key, value
