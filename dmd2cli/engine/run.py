"""A run in its folder: from a fresh start or a checkpoint, the same recipe or an allowed change of it."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import torch

from dmd2cli import __version__
from dmd2cli.engine import checkpoint, runtime, trainer
from dmd2cli.errors import UserError
from dmd2cli.recipe import AnyRecipe, Optimiser, PretrainRecipe, Recipe, differences, dump, load

R = TypeVar("R", Recipe, PretrainRecipe)

FREE = {"micro_batch", "parallel", "device", "threads", "keep", "time_limit"}
FREE |= {"log_every", "preview_every", "save_every", "checkpointing", "compile"}
"""Keys of `run` that may differ when a run is continued, besides `steps` upwards and data.workers."""


def run(
    asked: R, folder: Path, job: Callable[[R, torch.device], trainer.Job], resume: str = "auto", command: str = ""
) -> int:
    """Train in a run folder, or continue there; returns the steps done, at once if the run is finished.

    resume: auto, never, or the path of a checkpoint. Raises UserError as check_same and checkpoint.load do.
    """
    start, note = starting_point(folder, resume), ""
    if start is not None:
        note = check_same(start.parent.parent, asked)
        if (done := checkpoint.verify(start)) >= asked.run.steps and resume == "auto":
            return done
    device = runtime.device(asked.run.device)
    runtime.set_threads(asked.run.threads)
    made = job(asked, device)
    if start is None:
        made.begin()
    trainer.check_folder(folder)
    checkpoint.write_text(folder / "recipe.yaml", dump(asked))
    checkpoint.write_json(folder / "run.json", facts(asked, command, device))
    print(note, end="", file=sys.stderr)
    with closing(made):
        return trainer.train(made, asked.run, folder, start)


def starting_point(folder: Path, resume: str) -> Path | None:
    """The checkpoint to continue from, or None for a fresh start."""
    found = checkpoint.latest(folder / "checkpoints")
    if resume == "auto":
        return found
    if resume == "never":
        if found is not None:
            raise UserError(f"{folder}: holds a run already ({found.name}); choose another -o, or --resume auto")
        return None
    if not (Path(resume) / checkpoint.MANIFEST).is_file():
        raise UserError(f"--resume {resume}: no such checkpoint; it is auto, never or RUN/checkpoints/step-...")
    return Path(resume).absolute()


def check_same(folder: Path, asked: AnyRecipe) -> str:
    """Raise UserError naming the first difference between the recipe of a run and the one to continue it with.

    Returns the line to tell, if any, of a difference that is allowed.
    """
    held, note = load(folder / "recipe.yaml", model=type(asked)), ""
    for key, old, new in differences(held, asked):
        if key == "run.steps" and new > old:
            if any(player.decay_from < 1 for player in players(asked)):
                note = f"run.steps {old} -> {new}: the learning rate now decays to the new end\n"
            continue
        if key not in {"data.workers", *(f"run.{name}" for name in FREE)}:
            raise UserError(
                f"{folder}: this run was started with {key} = {old!r}, now it is {new!r}; "
                "take the old value to continue, or another -o to start anew"
            )
    return note


def facts(asked: AnyRecipe, command: str, device: torch.device) -> dict[str, Any]:
    """What run.json records: command, versions, commit, hardware, seed."""
    cuda = device.type == "cuda"
    hardware = torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine()
    return {
        "command": command,
        "versions": {"dmd2cli": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "commit": commit(),
        "hardware": {"device": str(device), "name": hardware, "threads": torch.get_num_threads()},
        "seed": asked.run.seed,
    }


def commit() -> str | None:
    """The git commit of this source tree, if it is one and git is there."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return found.stdout.strip() or None


def players(asked: AnyRecipe) -> list[Optimiser]:
    """The optimisers of a recipe."""
    return [asked.student, asked.critic] if isinstance(asked, Recipe) else [asked.optimiser]
