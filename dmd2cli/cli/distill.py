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
) -> None:
    """Distil a teacher into a few-step student. The same command again continues where it stopped."""
    import sys

    from dmd2cli.cli.training import dry, folder_of, train
    from dmd2cli.recipe import load

    found = load(recipe, [*(overrides or []), *([f"run.device={device}"] if device else [])])
    if dry(found, dry_run):
        return
    from dmd2cli.engine.distill import job

    folder = folder_of(recipe, out)
    steps = train(found, folder, job, resume)
    print(f"{folder / 'student'}: {len(found.student.times)}-step student after {steps} steps")
    print(f"next: dmd2 sample --student {folder} -o grid.png", file=sys.stderr)
