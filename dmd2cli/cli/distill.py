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

    from dmd2cli.recipe import dump, load
    from dmd2cli.recipe_build import check

    found = load(recipe, [*(overrides or []), *([f"run.device={device}"] if device else [])])
    check(found)
    if dry_run:
        print(dump(found), end="")
        return
    from dmd2cli.engine.distill import job
    from dmd2cli.engine.run import run

    folder = out or Path("runs") / Path(recipe).stem
    steps = run(found, folder, job, resume, command=" ".join(["dmd2", *sys.argv[1:]]))
    print(f"{folder / 'student'}: {len(found.student.times)}-step student after {steps} steps")
    print(f"next: dmd2 sample --student {folder} -o grid.png", file=sys.stderr)
