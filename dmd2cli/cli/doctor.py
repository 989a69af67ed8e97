"""dmd2 doctor: is this run healthy, or is this teacher what its recipe says; and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dmd2cli.doctor.verdict import Verdict


def doctor(
    subject: Annotated[str, typer.Argument(metavar="RUN | RECIPE", help="A run folder, or a recipe before training.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Of a recipe.")] = None,
    samples: Annotated[int | None, typer.Option(help="Of a recipe: clean samples to measure on.")] = None,
    updates: Annotated[int | None, typer.Option(help="Of a recipe: to weigh the GAN over; 0 = leave it out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say whether a run is healthy, or a recipe's teacher what it says: all that is wrong, why, what to change."""
    import json

    from dmd2cli.doctor.record import read
    from dmd2cli.doctor.verdict import diagnose
    from dmd2cli.errors import UserError

    folder = Path(subject)
    if not folder.is_dir():
        from dmd2cli.cli import preflight

        preflight.show(subject, overrides or [], samples, updates, as_json)
        return
    if samples is not None or updates is not None:
        option = "--samples" if samples is not None else "--updates"
        raise UserError(f"{option}: is for a recipe, and {subject} is a run; leave it out")
    if overrides:
        raise UserError(f"{overrides[0]}: a run has its recipe already; leave KEY=VALUE out, or name a recipe")
    found = diagnose(read(folder))
    print(json.dumps(found.as_json(), indent=2) if as_json else "\n".join(lines(found)))


def lines(found: Verdict) -> Iterator[str]:
    """The verdict for people."""
    yield f"{found.run}: {found.verdict}, at step {found.step} of {found.steps}"
    if found.best is not None:
        yield f"best validation: {found.best['score']:.4g} at step {found.best['step']}"
    for one in found.findings:
        yield f"\n{one.rule}: {one.says}"
        yield f"    signal   {one.signal} = {one.value:.4g}, threshold {one.threshold:g}"
        yield f"    cause    {one.cause}"
        if one.change:
            yield f"    change   {'  '.join(one.change)}"
    if found.verdict == "too early":
        yield "too few measurements of health yet (health.every); ask again later"
