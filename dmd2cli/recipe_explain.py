"""Where every value of a recipe comes from, what is written beside it, and where the release differs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from dmd2cli.recipe import AnyRecipe, Recipe, leaves, load_any
from dmd2cli.recipe_files import preset, presets, root
from dmd2cli.recipe_stages import staged
from dmd2cli.recipe_yaml import write

RELEASE = "dmd2-release"
COLUMNS = ("key", "value", "source", "note", "release")

Row = dict[str, Any]
"""key, source ("default", "preset NAME:LINE", "FILE:LINE" or an override), note (the comment behind it in that line),
value unless the recipe has none, and release: the release's value where it has another."""


def explained(name: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """{"rows": a Row for every leaf of the recipe, "stages": [{"stage", "first", "until", "rows": what it changes}]}.

    A loss term that the release has and the recipe lacks is there without a value. Raises UserError as load() does.
    """
    recipe = load_any(name, overrides)
    before = _values(recipe)
    rows, stages = _rows([*before, *_lacking(recipe)], recipe), []
    for i, stage in enumerate(staged(recipe) if isinstance(recipe, Recipe) and recipe.stages else ()):
        now = _values(stage.recipe)
        changed = [key for key in now | before if now.get(key, ...) != before.get(key, ...)]
        stages.append({"stage": i, "first": stage.first, "until": stage.until, "rows": _rows(changed, stage.recipe)})
        before = now
    return {"rows": rows, "stages": stages}


def cells(row: Row) -> list[str]:
    """A row as text: values as YAML, "-" for none, a blank where the release says nothing else."""
    value, release = (_shown(row[name]) if name in row else None for name in ("value", "release"))
    return [row["key"], value or "-", row["source"], row["note"], release or ""]


@lru_cache
def comments(text: str) -> Mapping[int, str]:
    """Line number, from 1, of YAML text -> the comment that stands behind values in it."""
    ends: dict[int, int] = {}
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        if token.start_mark.index < token.end_mark.index:   # others mark where a block begins or ends
            ends[token.end_mark.line] = max(token.end_mark.column, ends.get(token.end_mark.line, 0))
    tails = ((i, line[ends.get(i, 0) :].strip()) for i, line in enumerate(re.split(r"\r\n|[\n\r]", text)))
    return {i + 1: tail.lstrip("# ") for i, tail in tails if i in ends and tail.startswith("#")}


def _rows(keys: Iterable[str], recipe: AnyRecipe) -> list[Row]:
    """A row for each key, whether or not the recipe has it."""
    values, release = _values(recipe), _release(recipe)
    return [_row(key, values, release, recipe.places) for key in keys]


def _row(key: str, values: Mapping[str, Any], release: Mapping[str, Any], places: Mapping[str, str]) -> Row:
    at = _source(key, places) if key in values else _unset(key, places)
    row: Row = {"key": key, "source": at.replace(f"{root()}{os.sep}", "recipes/"), "note": _note(at)}
    row |= {"value": values[key]} if key in values else {}
    return row | ({"release": release[key]} if key in release and values.get(key, ...) != release[key] else {})


def _source(key: str, places: Mapping[str, str]) -> str:
    """Where a leaf was written; teacher.use in "teacher: digits" is written at teacher."""
    return places.get(key) or (places.get(key[:-4]) if key.endswith(".use") else None) or "default"


def _unset(key: str, places: Mapping[str, str]) -> str:
    """Where the nearest key around one that is not there was written, short of all of the losses; else nothing."""
    while key and key not in places:
        key = key.rpartition(".")[0]
    return places[key] if key not in ("", "losses") else ""


def _note(at: str) -> str:
    """The comment behind what was written at a place."""
    label, _, line = at.rpartition(":")
    if at.startswith("override ") or not label:
        return ""
    file = presets()[label.removeprefix("preset ")] if label.startswith("preset ") else Path(label)
    return comments(file.read_text(encoding="utf-8-sig")).get(int(line), "")


def _lacking(recipe: AnyRecipe) -> list[str]:
    """Keys of the loss terms that the release has and this recipe has not."""
    terms = recipe.losses if isinstance(recipe, Recipe) else {}
    return [key for key in _release(recipe) if key.startswith("losses.") and key.split(".")[1] not in terms]


def _release(recipe: AnyRecipe) -> dict[str, Any]:
    """What the release says to a recipe of this kind: nothing to a pretraining."""
    return dict(leaves(preset(RELEASE).data)) if isinstance(recipe, Recipe) else {}


def _values(recipe: AnyRecipe) -> dict[str, Any]:
    return dict(leaves(recipe.model_dump(mode="json", exclude={"stages"})))


def _shown(value: Any) -> str:
    """A plain value as YAML, on one line."""
    return " ".join(write(value).removesuffix("...\n").split())
