"""Installed versions beside those that passed the tests together.

tested_versions.json is written by `make constraints`, with constraints.txt: docs/versions.md.
"""

from __future__ import annotations

import json
import sys
from functools import lru_cache
from importlib.resources import files

from dmd2cli.installation.packages import installed, requirements

_mentioned = False


@lru_cache
def tested() -> dict[str, str]:
    """Read the versions that passed the tests: normalized name -> version, for what dmd2 needs to run."""
    text = (files("dmd2cli.installation") / "tested_versions.json").read_text(encoding="utf-8")
    versions: dict[str, str] = json.loads(text)
    return versions


def untested() -> dict[str, tuple[str, str]]:
    """Find installed packages of another version than the tested: name -> (installed, tested), ours first."""
    names = sorted(tested(), key=lambda name: (name not in requirements(), name))
    versions = [(name, installed(name), tested()[name]) for name in names]
    return {name: (here, known) for name, here, known in versions if here is not None and here != known}


def summary(found: dict[str, tuple[str, str]]) -> str:
    """Write untested versions in one line; what our requirements bring along is counted, not named."""
    ours = [f"{name} {here} (tested {known})" for name, (here, known) in found.items() if name in requirements()]
    others = len(found) - len(ours)
    if others:
        ours.append(f"{others} that {'these' if ours else 'others'} require (--json names them)")
    return ", ".join(ours) or "none"


def mention_torch(rank: int = 0) -> None:
    """Print a line if torch is older or newer than tested; once in a process, on the first rank. Imports no torch."""
    global _mentioned
    here, known = installed("torch"), tested()["torch"]
    if rank == 0 and not _mentioned and here is not None and here != known:
        print(f"note: torch {here} is not the tested one ({known}); see dmd2 env", file=sys.stderr)
    _mentioned = True
