"""Plain values as a recipe, and pydantic's findings as one line: FILE:LINE: dotted.key: what; what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from dmd2cli.errors import UserError, suggest
from dmd2cli.recipe_yaml import ROOT, Located, dotted, place

M = TypeVar("M", bound=BaseModel)
Loc = tuple[str | int, ...]

_WORDS = {
    "Value error, ": "",
    "Input should be": "must be",
    "an object": "a mapping",
    "a valid dictionary": "a mapping",
    "valid tuple": "list",
    "valid array": "list",
    "valid list": "list",
}


def validated(model: type[M], found: Located, allowed: Callable[[Loc], Iterable[str]], prefix: str = ROOT) -> M:
    """The values as a model that remembers their places; UserError if they are none. The rest as in explain()."""
    try:
        return model.model_validate_json(json.dumps(found.data), context=found.places)
    except ValidationError as err:
        raise explain(err, found, allowed, prefix, partial(_leaf, model)) from err


def fields_at(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """The names of the fields of the part at `loc`."""
    return list(_part(model, loc).model_fields)


def explain(
    err: ValidationError,
    found: Located,
    allowed: Callable[[Loc], Iterable[str]],
    prefix: str = ROOT,
    needed: Callable[[Loc], str] = lambda loc: dotted(*loc),
) -> UserError:
    """The first finding as a UserError, unknown keys before all others, and how many more there are.

    found: what was validated, and the places of all of the recipe. prefix: the key in the recipe that it stands at.
    allowed: location of a mapping -> keys it may have. needed: location of a missing key -> key to pass.
    """
    findings: dict[Loc, list[Any]] = {}
    for finding in err.errors(include_url=False):
        findings.setdefault(_written(finding["loc"], finding["type"], found.data), []).append(finding)
    (loc, same), *more = sorted(findings.items(), key=lambda item: item[1][0]["type"] != "extra_forbidden")
    key, first = dotted(prefix, *loc), same[0]
    if first["type"] == "extra_forbidden":
        what = f"{key}: unknown key{suggest(str(loc[-1]), allowed(loc[:-1]))}"
    elif first["type"] == "missing":
        inside_list = any(isinstance(part, int) for part in loc)
        what = f"{key} is missing: add it" + ("" if inside_list else f", or pass {dotted(prefix, needed(loc))}=VALUE")
    else:
        what = f"{key}: {_worded([finding['msg'] for finding in same], first['input'])}"
    return UserError(f"{place(found.places, key)}{what}{f' (+{len(more)} more)' if more else ''}")


def _written(loc: Loc, kind: str, data: Any) -> Loc:
    """A location without the names that pydantic gives to the choices of a union."""
    kept: list[str | int] = []
    for part in loc:
        there = part in data if isinstance(data, dict) else isinstance(data, list) and part in range(len(data))
        if there:
            data = data[part]
            kept.append(part)
    return (*kept, *(loc[-1:] if kind == "missing" else ()))


def _worded(messages: list[str], got: Any) -> str:
    for theirs, ours in _WORDS.items():
        messages = [message.replace(theirs, ours) for message in messages]
    message = " or ".join([messages[0], *(other.removeprefix("must be ") for other in messages[1:])])
    shown = json.dumps(got, default=str)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return f"{message}, got {shown}" if message.startswith("must be") else message


def _part(model: type[BaseModel], loc: Sequence[str | int]) -> Any:
    """The annotation of the field at `loc`, the model itself at (); None inside lists and options."""
    part: Any = model
    for name in loc:
        field = getattr(part, "model_fields", {}).get(name)
        part = field.annotation if field else None
        if get_origin(part) in (Union, UnionType):
            part = next((choice for choice in get_args(part) if hasattr(choice, "model_fields")), part)
    return part


def _leaf(model: type[BaseModel], loc: Loc) -> str:
    """The first required key at or below a missing one: what an override has to name."""
    required = [name for name, field in getattr(_part(model, loc), "model_fields", {}).items() if field.is_required()]
    return _leaf(model, (*loc, required[0])) if required else dotted(*loc)
