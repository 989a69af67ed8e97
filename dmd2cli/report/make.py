"""From run folders to a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dmd2cli.doctor.record import Record, read
from dmd2cli.errors import UserError
from dmd2cli.report import pictures, reference
from dmd2cli.report.measured import Measured
from dmd2cli.report.page import Contents, html
from dmd2cli.report.pictures import Picture
from dmd2cli.report.subject import LETTERS, folder_of, subject


@dataclass(frozen=True)
class Wishes:
    """What a report shows beside the runs."""

    evals: Sequence[Path] = ()
    reference: str | None = None
    teacher: bool = False
    """Whether to draw the teacher of each run."""
    price: float | None = None
    device: str = "auto"


def report(folders: Sequence[Path], wishes: Wishes) -> bytes:
    """The HTML file. Raises UserError for a folder that is no run, and for wishes that cannot be met."""
    if len(folders) > len(LETTERS):
        raise UserError(f"{len(folders)} runs: a report compares up to {len(LETTERS)}; name fewer")
    if again := [folder for i, folder in enumerate(folders) if folder.resolve() in [f.resolve() for f in folders[:i]]]:
        raise UserError(f"{again[0]}: is named twice; name each run once")
    measured = Measured()
    for path in wishes.evals:
        measured.add(path)
    runs = [read(folder_of(folder)) for folder in folders]
    for run in runs:
        measured.find(run.folder)
    band = reference.chosen(wishes.reference) if wishes.reference else reference.of(runs[0].packaged)
    found = [pictures.files(run.folder) for run in runs]
    budget = pictures.TOTAL // max(1, sum(map(len, found)) + len(runs))
    subjects = [
        replace(subject(run, i, len(runs) > 1, price=wishes.price), pictures=pictures.shown(files, budget),
                teacher=teacher(run, wishes, budget))
        for i, (run, files) in enumerate(zip(runs, found, strict=True))
    ]  # fmt: skip
    return html(Contents(subjects, measured, band))


def teacher(run: Record, wishes: Wishes, budget: int) -> Picture | None:
    """The teacher's picture of what the previews show: the one in samples/, or drawn now if that is wished for."""
    file = run.folder / "samples" / "teacher.png"
    if file.is_file():
        return pictures.picture(file, 0, budget)
    if not wishes.teacher:
        return None
    from dmd2cli.report.teacher import drawn

    return pictures.encoded("teacher.png", 0, drawn(run, wishes.device), budget)
