"""What `eval compare` does: each subject is measured under one protocol, a teacher once, and pictures are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from dmd2cli.cli.candidates import Candidate
from dmd2cli.cli.figure import Figure
from dmd2cli.cli.measuring import Wishes, measured
from dmd2cli.cli.subject import Subject, metrics_of
from dmd2cli.comparison import Comparison
from dmd2cli.errors import UserError


def compared(
    found: Sequence[Candidate],
    wishes: Wishes | None,
    table: Comparison,
    grid: Figure | None,
    download: bool,
    device: str,
) -> None:
    """Fill a table and a grid. wishes: without them nothing is measured, and results in files are refused.

    Raises UserError before anything is measured, where it can.
    """
    for one in found:
        one.check()
    if wishes is None and (held := [one.ref for one in found if one.kind == "results"]):
        raise UserError(f"--grid: {held[0]} holds numbers, no images; leave it out, or name --metrics")
    for one in (one for one in found if one.kind == "results"):
        table.add(one.name, one.results())
    done = set[str]()
    for one in (one for one in found if one.kind != "results"):
        opened = None if one.kind == "images" else one.open(device, download)
        if wishes is not None:
            wishes = chosen(wishes, opened, found)
            measure(one, opened, wishes, table, done)
        if grid is not None:
            grid.read(one.name, one.ref) if opened is None else grid.draw(one.name, opened)


def chosen(wishes: Wishes, opened: Subject | None, found: Iterable[Candidate]) -> Wishes:
    """With the metrics of the first subject's recipe, if none are named. Raises UserError if it names none."""
    if wishes.chosen is not None:
        return wishes
    if opened is None or not opened.metrics:
        first = next(one for one in found if one.kind != "results")
        raise UserError(f"{first.name}: has no recipe that names metrics; name them: --metrics fid,clip-score")
    return replace(wishes, chosen=metrics_of("all", opened))


def measure(one: Candidate, opened: Subject | None, wishes: Wishes, table: Comparison, done: set[str]) -> None:
    """Add a subject to a table, with the teacher behind it unless that is there. done: teachers that are."""
    images = Path(one.ref).expanduser() if opened is None else None
    behind = opened.behind if opened is not None else ""
    asked = replace(wishes, images=images, teacher=one.ref if one.kind == "teacher" else None)
    asked = replace(asked, baselines=wishes.baselines and behind not in done)
    teacher = f"teacher of {one.name}" if behind and asked.baselines else None
    table.add(one.name, measured(asked, lambda: present(opened)), teacher)
    done.add(behind)


def present(opened: Subject | None) -> Subject:
    """A subject that draws."""
    assert opened is not None, "of images nothing is drawn"
    return opened
