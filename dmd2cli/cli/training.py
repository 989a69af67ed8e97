"""What `distill` and `pretrain` share: check, show or run a recipe in its folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from dmd2cli.recipe import AnyRecipe


def folder_of(recipe: str, out: Path | None) -> Path:
    """-o, or runs/ and the name of the recipe."""
    return out or Path("runs") / Path(recipe).stem


def dry(found: AnyRecipe, dry_run: bool) -> bool:
    """Check the recipe's names; print it and return True if that is all that was asked."""
    from dmd2cli.recipe import dump
    from dmd2cli.recipe_build import check

    check(found)
    if dry_run:
        print(dump(found), end="")
    return dry_run


def train(found: Any, folder: Path, job: Callable[..., Any], resume: str) -> int:
    """Run it; the command line goes into the run folder. Returns the steps done."""
    from dmd2cli.engine.run import run
    from dmd2cli.engine.share import share
    from dmd2cli.installation.tested import mention_torch

    mention_torch(share().rank)
    return run(found, folder, job, resume, command=" ".join(["dmd2", *sys.argv[1:]]))


def several(found: AnyRecipe, nproc: int) -> NoReturn:
    """Run this command in so many processes, and exit as they do. UserError if the batch cannot be shared out."""
    from dmd2cli.engine.launch import launch
    from dmd2cli.engine.parallel import World, check_one_run

    check_one_run(found.run, nproc)
    World(size=nproc).rows(found.run.batch)
    raise typer.Exit(launch(nproc, without_nproc(sys.argv[1:])))


def without_nproc(arguments: Sequence[str]) -> list[str]:
    """A command line without --nproc N."""
    kept, rest = list[str](), iter(arguments)
    for argument in rest:
        if argument == "--nproc":
            next(rest, None)
        elif not argument.startswith("--nproc="):
            kept.append(argument)
    return kept
