"""check_exporter: what `dmd2 export` takes for granted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dmd2cli.protocols import Exporter
from dmd2cli.student import Student
from dmd2cli.testing.said import every, say
from dmd2cli.testing.setting import ROWS


def check_exporter(exporter: Exporter, student: Student, out: Path) -> None:
    """It wrote what it says, and nothing half; its answer is JSON; the student still draws what it drew."""
    every(CHECKS, exported(exporter, student, out))


@dataclass(frozen=True)
class Exported:
    """Where a student was written, what the exporter said, and what the student draws before and after."""

    out: Path
    answer: Mapping[str, Any]
    before: Tensor
    after: Tensor


def exported(exporter: Exporter, student: Student, out: Path) -> Exported:
    """Write a student to `out`, which is not there yet."""
    before = student(n=ROWS)
    answer = exporter(student, out)
    return Exported(out, answer, before, student(n=ROWS))


def written(done: Exported) -> None:
    """It writes to the path it is given, and leaves no drafts."""
    say(done.out.exists(), f"an exporter must write to the path it is given: there is no {done.out}")
    drafts = [path.name for path in done.out.parent.iterdir() if path.name.startswith(".")]
    say(not drafts, f"an exporter must leave no drafts behind: {drafts}")


def loaded_back(done: Exported) -> None:
    """It loads what it wrote, compares pictures, and answers in JSON with the largest difference."""
    said = isinstance(done.answer, Mapping) and "max_pixel_difference" in done.answer
    say(said, "an exporter must load its result back and return 'max_pixel_difference'")
    try:
        json.dumps(dict(done.answer))
    except TypeError as err:
        say(False, f"what an exporter returns must be JSON values: {err}")


def untouched(done: Exported) -> None:
    """The student draws what it drew before."""
    say(done.after.equal(done.before), "an exporter must leave the student as it was: it draws other images now")


CHECKS = (written, loaded_back, untouched)
