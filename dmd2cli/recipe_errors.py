"""Pydantic's findings as one line: FILE:LINE: dotted.key: what; what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import ValidationError

from dmd2cli.errors import UserError, suggest
from dmd2cli.recipe_yaml import dotted, place

_WORDS = {
    "Value error, ": "",
    "Input should be": "must be",
    "an object": "a mapping",
    "a valid dictionary": "a mapping",
    "valid tuple": "list",
    "valid array": "list",
    "valid list": "list",
}


def explain(
    err: ValidationError,
    places: dict[str, str],
    allowed: Callable[[tuple[str | int, ...]], Iterable[str]],
    prefix: str = "",
    needed: Callable[[tuple[str | int, ...]], str] = lambda loc: dotted(*loc),
) -> UserError:
    """The first finding as a UserError, unknown keys before all others, and how many more there are.

    allowed: location of a mapping -> keys it may have. needed: location of a missing key -> key to pass.
    """
    first, *more = sorted(err.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    loc = first["loc"]
    key = dotted(prefix, *loc)
    if first["type"] == "extra_forbidden":
        what = f"{key}: unknown key{suggest(str(loc[-1]), allowed(loc[:-1]))}"
    elif first["type"] == "missing":
        inside_list = any(isinstance(part, int) for part in loc)
        what = f"{key} is missing: add it" + ("" if inside_list else f", or pass {dotted(prefix, needed(loc))}=VALUE")
    else:
        what = f"{key}: {_worded(first['msg'], first['input'])}"
    return UserError(f"{place(places, key)}{what}{f' (+{len(more)} more)' if more else ''}")


def _worded(message: str, got: Any) -> str:
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    shown = json.dumps(got, default=str)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return f"{message}, got {shown}" if message.startswith("must be") else message
