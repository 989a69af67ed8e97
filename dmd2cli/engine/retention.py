"""Which checkpoints stay, and how one gives way to another so that a crash at any instant loses none.

Names in the folder of checkpoints that begin with a dot are on their way:

    .step-N.tmp     being written
    .step-N.old     set aside while a new step-N takes its place: put back if that never came
    .step-N.gone    being deleted
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from dmd2cli.recipe_parts import Keep

Found = Mapping[int, Mapping[str, float]]
"""Step of a checkpoint -> the logged values in its manifest."""


def stay(found: Found, keep: Keep) -> set[int]:
    """The steps that stay: the newest keep.last, the multiples of keep.every, the keep.best lowest by keep.by."""
    newest = sorted(found)[-keep.last :]
    multiples = [step for step in found if keep.every and step % keep.every == 0]
    return {*newest, *multiples, *_by(found, keep.by)[: keep.best]}


def best(found: Found, by: str | None) -> int | None:
    """The step with the lowest finite value, the older of two; None if there is no such value."""
    return next(iter(_by(found, by)), None)


def _by(found: Found, by: str | None) -> list[int]:
    """The steps that have a finite value, from the best on."""
    values = {step: there.get(by, math.nan) for step, there in found.items()} if by is not None else {}
    return sorted((step for step in values if math.isfinite(values[step])), key=lambda step: (values[step], step))


def put(draft: Path, target: Path) -> None:
    """Give a folder its name; one that has the name already is set aside first, and deleted afterwards."""
    old = target.with_name(f".{target.name}.old")
    if there := target.exists():
        os.replace(target, old)
    os.replace(draft, target)
    if there:
        drop(old)


def drop(path: Path) -> None:
    """Delete a folder: its name goes at once, so that what is half deleted is never taken for a checkpoint."""
    gone = path.with_name(f".{path.name.strip('.')}.gone")
    os.replace(path, gone)
    shutil.rmtree(gone, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put back what a crash left set aside."""
    for old in folder.glob(".step-*.old"):
        if not (target := old.with_name(old.name[1 : -len(".old")])).exists():
            os.replace(old, target)


def tidy(folder: Path) -> None:
    """Put back what a crash left set aside, and delete what it left half written or half deleted."""
    recover(folder)
    for path in [path for end in ("tmp", "old", "gone") for path in folder.glob(f".*.{end}")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
