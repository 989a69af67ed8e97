"""The loop: step -> log -> preview -> checkpoint. No hooks: a loop of your own is 40 lines of public API."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dmd2cli.engine import checkpoint
from dmd2cli.engine.books import Books
from dmd2cli.engine.parallel import ALONE, World
from dmd2cli.engine.player import Player
from dmd2cli.engine.signals import interruptible
from dmd2cli.engine.watch import here
from dmd2cli.errors import UserError
from dmd2cli.recipe import AnyRecipe, Run


class Job(Protocol):
    """What a trainer trains: a distillation, or a network from scratch."""

    @property
    def recipe(self) -> AnyRecipe:
        """Of the current stage."""

    @property
    def cycle(self) -> int:
        """Steps from one update of the student to the next, at present."""

    @property
    def over(self) -> bool:
        """Whether there is nothing more to gain, before run.steps."""

    def seek(self, step: int) -> None:
        """Be in the state in which `step` is trained: the stage of a recipe that has several."""

    def step(self, step: int) -> Mapping[str, Tensor]:
        """Train one step; returns scalars on the device."""

    def updates(self, step: int) -> int:
        """How many of the first `step` steps move the student."""

    def players(self) -> Mapping[str, Player]:
        """What learns, by name."""

    def watched(self) -> Mapping[str, nn.Module]:
        """All networks, by the names that people know them by."""

    def batches(self, step: int) -> Sequence[Any]:
        """What a step trains on."""

    def state(self) -> dict[str, Any]:
        """The whole state as nested dictionaries of tensors, those in use among them."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""

    def publication(self, folder: Path, step: int) -> Callable[[], None]:
        """The result so far, copied, and how it is written into the run folder: on the first rank alone."""

    def preview(self, path: Path) -> None:
        """Draw a picture of the result so far, or nothing."""

    def close(self) -> None:
        """Let go of threads and files."""


def train(job: Job, run: Run, folder: Path, resume: Path | None = None, world: World = ALONE) -> int:
    """Run a job to run.steps, from a checkpoint if one is given; returns the steps done.

    Raises KeyboardInterrupt after saving when asked to stop, Diverged when updates had to be skipped too often in a
    row or the last weights are not finite, UserError when a checkpoint is damaged or cannot be written.
    """
    done, values = restore(job, resume, world) if resume else (0, {})
    start, end = done, deadline(run)
    here.first = done
    if resume:
        job.publication(folder, done)()            # the student may be newer than the checkpoint, or damaged
    with interruptible() as stop, Books(job, run, folder, world, done) as books:
        while done < run.steps and not job.over:
            if world.any(bool(stop.signals) or (done > start and time.monotonic() >= end)):
                break
            found = job.step(done)
            values = {**({} if other_stage(values, found) else values), **found}    # the newest of every term
            done += 1
            books.keep(done, values)
        if start < done:
            books.finish(done, values)
    if world.first and job.over:
        why = "the validation got no better (health.validation.patience)"
        print(f"ended at step {done} of {run.steps}: {why}", file=sys.stderr)
    elif world.first and done < run.steps:
        print(f"saved at step {done} of {run.steps}; the same command continues", file=sys.stderr)
    if world.any(bool(stop.signals)):
        raise KeyboardInterrupt
    return done


def restore(job: Job, path: Path, world: World = ALONE) -> tuple[int, dict[str, Tensor]]:
    """Load a checkpoint into a job; returns the steps it had done and the newest value of every term."""
    found = checkpoint.manifest(path)
    job.seek(max(0, found["step"] - 1))            # the state is that of the stage that wrote it
    job.load_state(checkpoint.load(path, job.state(), world.group))
    return found["step"], {name: torch.tensor(value) for name, value in found["values"].items()}


def other_stage(values: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> bool:
    """Do the numbers of a step belong to another stage than those before?"""
    return "stage" in values and int(values["stage"]) != int(found["stage"])


def deadline(run: Run) -> float:
    """The monotonic second at which run.time_limit ends."""
    return time.monotonic() + 60 * run.time_limit if run.time_limit else math.inf


def check_folder(folder: Path) -> None:
    """Raise UserError unless the run folder can be made and written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as err:
        raise UserError(f"{folder}: cannot write there ({err.strerror}); choose another folder with -o") from err
