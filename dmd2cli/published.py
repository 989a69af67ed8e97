"""Students that others have published, by name: what a plugin in dmd2.students is, and how one is read.

The files come from the local cache of the hub. Nothing is downloaded unless that was allowed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dmd2cli import hub, registry
from dmd2cli.hub import Download

if TYPE_CHECKING:
    from dmd2cli.converters import Converted


@dataclass(frozen=True)
class Published:
    """What an entry point in dmd2.students, a function without options, returns."""

    about: str
    """In a few words."""
    weights: Download
    """One file."""
    base: Sequence[Download]
    """What is needed besides: configurations, text encoders, VAE."""
    read: Callable[[Path], Converted]
    """That file as a student: tensors, and the contract as metadata "dmd2_student"; what `dmd2 convert` writes."""


def names() -> list[str]:
    """Of all that are known here, sorted."""
    return registry.names("students")


def known(ref: str | Path) -> str | None:
    """The name of a published student, if a reference is one: a file or folder of that name comes first."""
    return str(ref) if str(ref) in names() and not Path(ref).exists() else None


def find(name: str) -> Published:
    """By name. Raises UserError for one that is not known."""
    found: Published = registry.load("students", name)()
    return found


def ensure(name: str, download: bool | None = False) -> Path:
    """The file of a published student, in the local cache with all that it needs besides.

    download: whether missing files may be fetched; None: ask on a terminal. Raises UserError as hub.ensure() does.
    """
    found = find(name)
    hub.ensure(name, [found.weights, *found.base], download)
    folder = found.weights.folder
    assert folder is not None, "there, or fetched"
    return folder / found.weights.files[0]


def read(name: str, download: bool | None = False) -> Converted:
    """A published student's tensors and contract; says its licence once. The rest as in ensure()."""
    path, found = ensure(name, download), find(name)
    tell(name, found.weights.licence, tuple((each.repository, each.licence) for each in found.base))
    return found.read(path)


@lru_cache
def tell(name: str, licence: str, bases: Sequence[tuple[str, str]]) -> None:
    """The licences, on stderr, once in a process."""
    others = "".join(f"; its base {repository}: {terms}" for repository, terms in bases)
    print(f"{name}: licence {licence}{others}", file=sys.stderr)
