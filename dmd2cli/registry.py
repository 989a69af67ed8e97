"""Plugins by kind and name, from entry points: listing imports nothing, loading imports one module.

DMD2_PLUGINS=none hides every distribution but our own, DMD2_PLUGINS=a,b shows a and b besides it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any

from dmd2cli.errors import UserError, suggest

KINDS = {
    "teachers": "teacher",
    "losses": "loss",
    "samplers": "sampler",
    "datasets": "dataset",
    "metrics": "metric",
    "extractors": "extractor",
    "exporters": "exporter",
    "weightings": "weighting",
    "rewards": "reward",
    "pretraining": "pretraining task",
    "converters": "converter",
    "students": "published student",
}
"""Kind (entry-point group without "dmd2.") -> what one of them is called in messages."""

_overrides: dict[tuple[str, str], object] = {}


@dataclass(frozen=True)
class Plugin:
    """One registered name, as its distribution describes it; `problem` says why it cannot be loaded."""

    name: str
    distribution: str
    version: str
    target: str
    problem: str = ""


def names(kind: str) -> list[str]:
    """All names of a kind, sorted, without importing any of them."""
    return sorted({*_found(kind), *(name for k, name in _overrides if k == kind)})


def load(kind: str, name: str) -> Any:
    """The object registered under `name`, importing its module. Raises UserError if that cannot be done."""
    if (kind, name) in _overrides:
        return _overrides[kind, name]
    entry = _only(kind, name)
    try:
        return entry.load()
    except Exception as err:
        raise import_problem(kind, name, err) from err


def describe(kind: str) -> list[Plugin]:
    """Every registration of a kind, sorted by name; duplicates are all there, each with its problem."""
    return [
        Plugin(name, *_origin(entry), entry.value, _duplicate(kind, entries) if len(entries) > 1 else "")
        for name, entries in sorted(_found(kind).items())
        for entry in entries
    ]


@contextmanager
def override(kind: str, name: str, obj: object) -> Iterator[None]:
    """Register `obj` for the length of a with-block, before any installed plugin of that name."""
    before = dict(_overrides)
    _overrides[kind, name] = obj
    try:
        yield
    finally:
        _overrides.clear()
        _overrides.update(before)


def import_problem(kind: str, name: str, err: Exception) -> UserError:
    """What to tell a person whose plugin failed to import: the missing package, or whose fault it is."""
    entry = _only(kind, name)
    distribution, version = _origin(entry)
    missing = (err.name or "").partition(".")[0] if isinstance(err, ModuleNotFoundError) else ""
    if missing and missing != entry.module.partition(".")[0] and find_spec(missing) is None:
        package = f"'{distribution}[{','.join(entry.extras)}]'" if entry.extras else missing
        return UserError(f"{KINDS[kind]} '{name}' needs {missing}: pip install {package}")
    return UserError(
        f"{KINDS[kind]} '{name}' of {distribution} {version} cannot be imported: "
        f"{type(err).__name__}: {' '.join(str(err).split())}; update or uninstall {distribution}"
    )


def _found(kind: str) -> dict[str, list[EntryPoint]]:
    assert kind in KINDS, f"{kind!r} is not one of {', '.join(KINDS)}"
    return _scan(kind, os.environ.get("DMD2_PLUGINS"), tuple(sys.path))


@lru_cache
def _scan(kind: str, shown: str | None, path: tuple[str, ...]) -> dict[str, list[EntryPoint]]:
    """Entry points by name. `path` is sys.path: there only to make the cache notice that it changed."""
    found: dict[str, list[EntryPoint]] = {}
    allowed = {_normal(name) for name in ["dmd2cli", *(shown or "").split(",")]}
    for entry in entry_points(group=f"dmd2.{kind}"):
        if shown is None or _normal(_origin(entry)[0]) in allowed:
            found.setdefault(entry.name, []).append(entry)
    return found


def _only(kind: str, name: str) -> EntryPoint:
    found = _found(kind)
    if name not in found:
        hidden = " (DMD2_PLUGINS is set and may hide it)" if "DMD2_PLUGINS" in os.environ else ""
        raise UserError(f"{KINDS[kind]} '{name}' is not installed{suggest(name, names(kind))}{hidden}")
    if len(found[name]) > 1:
        raise UserError(_duplicate(kind, found[name]))
    return found[name][0]


def _duplicate(kind: str, entries: list[EntryPoint]) -> str:
    both = " and by ".join(_origin(entry)[0] for entry in entries)
    return f"{KINDS[kind]} '{entries[0].name}' is provided by {both}: uninstall one, or set DMD2_PLUGINS"


def _origin(entry: EntryPoint) -> tuple[str, str]:
    assert entry.dist is not None, "entry points read from metadata know their distribution"
    return entry.dist.metadata["Name"], entry.dist.version


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower().strip()
