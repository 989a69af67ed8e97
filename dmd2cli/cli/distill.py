"""dmd2 distill: train a student."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def distill(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a packaged one.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Fields to change.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; by default runs/RECIPE.")] = None,
    resume: Annotated[str, typer.Option(help="auto, never, or a checkpoint folder to start from.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; by default the fastest there is.")] = None,
    nproc: Annotated[int | None, typer.Option(min=1, help="Processes on this machine: one per GPU.")] = None,
) -> None:
    """Distil a teacher into a few-step student. The same command again continues where it stopped."""
    import sys

    from dmd2cli.cli.training import dry, folder_of, several, train
    from dmd2cli.recipe import load

    found = load(recipe, [*(overrides or []), *([f"run.device={device}"] if device else [])])
    if dry(found, dry_run):
        return
    if nproc is not None and nproc > 1:
        several(found, nproc)
    from dmd2cli.engine.distill import job
    from dmd2cli.engine.share import share

    folder = folder_of(recipe, out)
    steps = train(found, folder, job, resume)
    if share().rank == 0:
        print(f"{folder / 'student'}: {len(found.student.times)}-step student after {steps} steps")
        print(f"next: dmd2 sample --student {folder} -o grid.png", file=sys.stderr)
