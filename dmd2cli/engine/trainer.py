"""The loop: step -> log -> preview -> checkpoint. No hooks: a loop of your own is 40 lines of public API."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from dmd2cli.engine import checkpoint
from dmd2cli.engine.log import Log
from dmd2cli.errors import Diverged, UserError
from dmd2cli.recipe import Run


class Job(Protocol):
    """What a trainer trains: a distillation, or a network from scratch."""

    def begin(self) -> None:
        """Before the first step of a run that continues none: read what it starts from."""

    def seek(self, step: int) -> None:
        """Be in the state in which `step` is trained: the stage of a recipe that has several."""

    def step(self, step: int) -> Mapping[str, Tensor]:
        """Train one step; returns scalars on the device."""

    def state(self) -> dict[str, Any]:
        """The whole state as nested dictionaries of tensors."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""

    def publish(self, folder: Path, step: int) -> None:
        """Write the result so far into the run folder."""

    def preview(self, path: Path) -> None:
        """Draw a picture of the result so far, or nothing."""

    def close(self) -> None:
        """Let go of threads and files."""


@dataclass
class Stop:
    """Set by the first SIGINT or SIGTERM; the second one interrupts at once."""

    signals: list[int] = field(default_factory=list)

    def catch(self, number: int, frame: Any) -> None:
        if self.signals:
            raise KeyboardInterrupt
        self.signals.append(number)
        print("stopping after this step; once more to stop at once", file=sys.stderr)


def train(job: Job, run: Run, folder: Path, resume: Path | None = None) -> int:
    """Run a job to run.steps, from a checkpoint if one is given; returns the steps done.

    Raises KeyboardInterrupt after saving when asked to stop, Diverged when a logged number is not finite,
    UserError when a checkpoint is damaged or cannot be written.
    """
    done, values = restore(job, resume) if resume else (0, {})
    start = done
    if resume:
        job.publish(folder, done)                  # the student may be newer than the checkpoint, or damaged
    log, end = Log(folder, done), deadline(run)
    with interruptible() as stop, progress(run.steps, done) as show:
        while done < run.steps and not stop.signals and time.monotonic() < end:
            found = job.step(done)
            values = {**({} if other_stage(values, found) else values), **found}    # the newest of every term
            done += 1
            last = done == run.steps
            if done % run.log_every == 0 or last:
                log.write(done, numbers := finite(values, done, folder))
                show(done, numbers)
            if run.preview_every is not None and (done % run.preview_every == 0 or last):
                job.preview(folder / "samples" / f"{checkpoint.name(done)}.png")
            if done % run.save_every == 0 or last:
                save(job, run, folder, done, values)
        if start < done < run.steps and done % run.save_every:
            save(job, run, folder, done, values)
    log.close()
    if done < run.steps:
        print(f"saved at step {done} of {run.steps}; the same command continues", file=sys.stderr)
    if stop.signals:
        raise KeyboardInterrupt
    return done


def save(job: Job, run: Run, folder: Path, done: int, values: Mapping[str, Tensor]) -> None:
    """The result, then its checkpoint, so that a finished run has both; neither of a state that is not finite."""
    numbers = finite(values, done, folder)
    job.publish(folder, done)
    checkpoint.save(folder / "checkpoints", done, job.state(), run.keep, numbers)


def restore(job: Job, path: Path) -> tuple[int, dict[str, Tensor]]:
    """Load a checkpoint into a job; returns the steps it had done and the newest value of every term."""
    found = checkpoint.manifest(path)
    job.seek(max(0, found["step"] - 1))            # the state is that of the stage that wrote it
    job.load_state(checkpoint.load(path, job.state()))
    return found["step"], {name: torch.tensor(value) for name, value in found["values"].items()}


def other_stage(values: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> bool:
    """Do the numbers of a step belong to another stage than those before?"""
    return "stage" in values and int(values["stage"]) != int(found["stage"])


def finite(values: Mapping[str, Tensor], step: int, folder: Path) -> dict[str, float]:
    """The numbers of a step; Diverged if one of them is NaN or infinite."""
    numbers = dict(zip(values, torch.stack([v.float().cpu() for v in values.values()]).tolist(), strict=True))
    bad = [name for name, value in numbers.items() if not math.isfinite(value)]
    if bad:
        raise Diverged(
            f"{folder}: step {step}: {', '.join(bad)} is not finite; the checkpoints before are intact: "
            "start a new run (-o) with lower learning rates or a lower GAN weight"
        )
    return numbers


def deadline(run: Run) -> float:
    """The monotonic second at which run.time_limit ends."""
    return time.monotonic() + 60 * run.time_limit if run.time_limit else math.inf


@contextmanager
def interruptible() -> Iterator[Stop]:
    """SIGINT and SIGTERM end the current step in order instead of breaking it."""
    stop, numbers = Stop(), (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, stop.catch) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def progress(total: int, done: int) -> Iterator[Any]:
    """A bar with rate and time left on a terminal, plain lines elsewhere; all on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step, values: print(f"step {step}/{total}  {summary(values)}", file=sys.stderr, flush=True)
        return
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[values]}"), console=console) as bar:
        task = bar.add_task("training", total=total, completed=done, values="")
        yield lambda step, values: bar.update(task, completed=step, values=summary(values))


def summary(values: Mapping[str, float]) -> str:
    """The terms in a line, without gradient norms and measured weights."""
    terms = {k.rpartition("/")[2]: v for k, v in values.items() if "/weight/" not in k and "norm" not in k}
    return "  ".join(f"{name} {value:.4g}" for name, value in terms.items())


def check_folder(folder: Path) -> None:
    """Raise UserError unless the run folder can be made and written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as err:
        raise UserError(f"{folder}: cannot write there ({err.strerror}); choose another folder with -o") from err
