"""dmd2 report: what one run did, or several beside each other, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders; several are compared.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file; by default RUN/report.html.")] = None,
    evals: Annotated[list[Path] | None, typer.Option("--eval", help="Also JSON of dmd2 eval; may be repeated.")] = None,
    reference: Annotated[str | None, typer.Option(help="Band of this recipe or file; by default the run's.")] = None,
    teacher: Annotated[bool, typer.Option("--teacher", help="Also draw the teacher: loads its network.")] = False,
    price: Annotated[float | None, typer.Option("--price-per-hour", help="Of a device, for the cost.")] = None,
    device: Annotated[str, typer.Option(help="To draw the teacher on: cpu, cuda or mps.")] = "auto",
) -> None:
    """Write a report that opens anywhere, offline: verdict, curves, samples, metrics, circumstances."""
    import math

    from dmd2cli.errors import UserError
    from dmd2cli.report import files, make

    if price is not None and not (math.isfinite(price) and price >= 0):
        raise UserError(f"--price-per-hour {price}: must be 0 or more")
    target = out or runs[0] / "report.html"
    if out is not None or runs[0].is_dir():
        files.check(target)
    made = make.report(runs, make.Wishes(evals or (), reference, teacher, price, device))
    files.whole(target, made)
    print(f"{target}: {len(runs)} run{'s' * (len(runs) > 1)}, {len(made) / 1e6:.2f} MB")
