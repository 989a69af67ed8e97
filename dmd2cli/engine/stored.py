"""The checkpoints of a run as they lie on disk: which there are, which is the newest, and which of them are whole."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmd2cli.engine import retention
from dmd2cli.engine.disk import sha256
from dmd2cli.errors import UserError

MANIFEST = "manifest.json"
NO_MANIFEST = f"not a whole checkpoint ({MANIFEST} is missing or cut)"


def name(step: int) -> str:
    """The folder of a step."""
    return f"step-{step:08d}"


def steps(folder: Path) -> list[int]:
    """The steps there are checkpoints of, rising."""
    return sorted(int(p.name[5:]) for p in folder.glob("step-*") if p.is_dir() and p.name[5:].isdigit())


def latest(folder: Path) -> Path | None:
    """The newest checkpoint, whole or not, or None."""
    found = steps(folder)
    return folder / name(found[-1]) if found else None


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole, or None where there are none; damaged ones are told on stderr.

    For one process at a time. Raises UserError if there are checkpoints and none is whole.
    """
    retention.recover(folder)
    damaged: list[str] = []
    for path in [folder / name(step) for step in reversed(steps(folder))]:
        wrong = _damage(path)
        if wrong is None:
            for line in damaged:
                print(f"{line}; {path.name} is taken, which is older", file=sys.stderr)
            return path
        damaged.append(f"{path}: {wrong}")
    if damaged:
        raise UserError(f"{damaged[0]}; there is no other that is whole: start anew with another -o")
    return None


def verify(path: Path) -> int:
    """The step of a checkpoint whose every file has its recorded hash; UserError names the one that has not."""
    if wrong := _damage(path):
        raise UserError(f"{path}: {wrong}{_others(path)}")
    return int(manifest(path)["step"])


def manifest(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself. Raises UserError if that is missing or cut."""
    if (found := _manifest(path)) is None:
        raise UserError(f"{path}: {NO_MANIFEST}{_others(path)}")
    return found


def _manifest(path: Path) -> dict[str, Any] | None:
    """The manifest, or None where there is none that is whole. Older ones have no seal."""
    try:
        found = json.loads((path / MANIFEST).read_text())
        whole = isinstance(found["step"], int) and isinstance(found["values"], dict) and found["sha256"].keys()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    rest = {key: value for key, value in found.items() if key != "seal"}
    return found if whole and found.get("seal", seal(rest)["seal"]) == seal(rest)["seal"] else None


def seal(found: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with a hash of itself."""
    return {**found, "seal": hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()}


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    if (found := _manifest(path)) is None:
        return NO_MANIFEST
    for file, digest in found["sha256"].items():
        try:
            wrong = "" if sha256(path / file) == digest else "missing, cut or changed"
        except FileNotFoundError:
            wrong = "missing, cut or changed"
        except OSError as err:
            wrong = f"not readable ({err.strerror})"
        if wrong:
            return f"damaged checkpoint: {file} is {wrong}"
    return None


def _others(path: Path) -> str:
    other = [s for s in steps(path.parent) if name(s) != path.name]
    return f"; continue from an older one with --resume {path.parent / name(other[-1])}" if other else ""
