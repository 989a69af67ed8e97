"""dmd2 pretrain: train a small teacher, or the features of a metric."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pretrain(
    recipe: Annotated[str, typer.Argument(help="A recipe file with a task, or the name of a packaged one.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Fields to change.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; by default runs/RECIPE.")] = None,
    resume: Annotated[str, typer.Option(help="auto, never, or a checkpoint folder to start from.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")] = False,
) -> None:
    """Train a network from scratch; the same command again continues. Writes RUN/weights.safetensors."""
    from dmd2cli.cli.training import dry, folder_of, train
    from dmd2cli.recipe import PretrainRecipe, load

    found = load(recipe, overrides or [], model=PretrainRecipe)
    if dry(found, dry_run):
        return
    from dmd2cli.engine.pretrain import RESULT, pretraining
    from dmd2cli.engine.share import share

    folder = folder_of(recipe, out)
    steps = train(found, folder, pretraining, resume)
    if share().rank == 0:
        print(f"{folder / RESULT}: trained for {steps} steps")
