"""Plugins by kind and name, from entry points: listing imports nothing, loading imports one module.

DMD2_PLUGINS=none hides every distribution but our own, DMD2_PLUGINS=a,b shows a and b besides it. Whatever is wrong
with a distribution is a problem of its own names: it is told, and every other name works.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import Distribution, EntryPoint, distributions
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

API = 1
"""Version of the plugin API: docs/plugins.md says what each changed. A package may state its own as DMD2_API."""
OLDEST = 1
"""The oldest version that plugins may have been written for."""

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
        found = entry.load()
    except (Exception, SystemExit) as err:
        raise import_problem(kind, name, err) from err
    _check_api(kind, entry)
    return found


def describe(kind: str) -> list[Plugin]:
    """Every registration of a kind, sorted by name; duplicates are all there, each with its problem."""
    return [
        Plugin(name, *_origin(entry), entry.value, _duplicate(kind, entries) if len(entries) > 1 else "")
        for name, entries in sorted(_found(kind).items())
        for entry in entries
    ]


def problems() -> list[str]:
    """What is wrong with distributions whose metadata cannot be read: their names are missing from every kind."""
    return list(_installed(tuple(sys.path))[1])


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


def import_problem(kind: str, name: str, err: BaseException) -> UserError:
    """What to tell a person whose plugin failed to import: the missing package, or whose fault it is."""
    from dmd2cli.installation.packages import install
    from dmd2cli.installation.problem import problem

    entry = _only(kind, name)
    distribution, version = _origin(entry)
    missing = (err.name or "").partition(".")[0] if isinstance(err, ModuleNotFoundError) else ""
    if missing and missing != _package(entry) and find_spec(missing) is None:
        command = f"pip install '{distribution}[{','.join(entry.extras)}]'" if entry.extras else install(missing)
        return UserError(f"{KINDS[kind]} '{name}' needs {missing}: {command}")
    if told := problem(err, own=(_package(entry),)):
        return UserError(f"{KINDS[kind]} '{name}' cannot be imported: {told}")
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
    allowed = {normal(name) for name in ["dmd2cli", *(shown or "").split(",")]}
    for entry in _installed(path)[0]:
        if entry.group == f"dmd2.{kind}" and (shown is None or normal(_origin(entry)[0]) in allowed):
            found.setdefault(entry.name, []).append(entry)
    return found


@lru_cache
def _installed(path: tuple[str, ...]) -> tuple[list[EntryPoint], list[str]]:
    """All our entry points, and what is wrong with distributions that cannot be read. Of two of a name the first."""
    found, problems, seen = list[EntryPoint](), list[str](), set[str]()
    for distribution in distributions():
        try:
            text = distribution.read_text("entry_points.txt") or ""
            if "[dmd2." not in text:
                continue
            name, entries = _read(distribution)
        except Exception as err:                           # whatever it is, it must not reach the other distributions
            where = getattr(distribution, "_path", "a distribution")
            said = " ".join(str(err).split())
            problems.append(f"{where}: cannot be read ({type(err).__name__}: {said}); install it again, or remove it")
            continue
        if name not in seen:
            found += entries
        seen.add(name)
    return found, problems


def _read(distribution: Distribution) -> tuple[str, list[EntryPoint]]:
    """A distribution's name, and its entry points in our groups. Raises whatever its metadata makes it."""
    name, version = distribution.metadata["Name"], distribution.version
    if not name or not version:
        raise ValueError("METADATA has no name and version")
    return normal(name), [entry for entry in distribution.entry_points if entry.group.startswith("dmd2.")]


def _check_api(kind: str, entry: EntryPoint) -> None:
    """Raise UserError if the package of an entry point states another version of the plugin API than we have."""
    stated = getattr(sys.modules.get(_package(entry)), "DMD2_API", API)
    if isinstance(stated, int) and OLDEST <= stated <= API:
        return
    distribution, version = _origin(entry)
    newer = isinstance(stated, int) and stated > API
    ours = f"this dmd2cli has {API}" if OLDEST == API else f"this dmd2cli has {OLDEST} to {API}"
    raise UserError(
        f"{KINDS[kind]} '{entry.name}' of {distribution} {version} is written for plugin API {stated!r}, and {ours}: "
        f"update {'dmd2cli' if newer else distribution}"
    )


def _package(entry: EntryPoint) -> str:
    """The top-level package that an entry point names, also where the entry is malformed."""
    return entry.value.partition(":")[0].partition(".")[0].strip()


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


def normal(distribution: str) -> str:
    """A name as packages are compared: my_plugin, My.Plugin and my-plugin are one."""
    return re.sub(r"[-_.]+", "-", distribution).lower().strip()
