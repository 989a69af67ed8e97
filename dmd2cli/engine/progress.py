"""How far a run is: a bar of student updates on a terminal, a line per logged step elsewhere; all on stderr."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from dmd2cli.recipe import Run
from dmd2cli.recipe_health import SCORE

Show = Callable[[int, Mapping[str, float]], None]
"""Takes the steps done and the numbers of the last one."""

Clock = Callable[[], float]
"""Seconds since some moment."""

RECENT = 20
"""Intervals of which the median is taken."""

ENOUGH = 10
"""Cycles after which it does not matter that the last one is cut."""

WHOLE = Column(no_wrap=True)

REDRAWN = 1.0
"""Times per second that a bar is drawn: it takes milliseconds."""


class Counted(Protocol):
    """What a job says of its student."""

    @property
    def cycle(self) -> int:
        """Steps from one student update to the next, at present."""

    def updates(self, step: int) -> int:
        """How many of the first `step` steps move the student: all of them where there is one player."""


def counted(job: Counted, steps: int) -> tuple[str, int]:
    """What a run of so many steps is counted in, and how many there are: steps, unless some of them move no student."""
    updates = job.updates(steps)
    return ("student update", updates) if 0 < updates < steps else ("step", steps)


class Speed:
    """Seconds per step in this process: the median over intervals of whole cycles, without the first if there are more.

    The first is slow (kernels are chosen and compiled), and so are those with a picture or a checkpoint.
    """

    def __init__(self, step: int, clock: Clock) -> None:
        """step: those done so far, by this process or by one before it."""
        self.step, self.clock, self.time = step, clock, clock()
        self.first: float | None = None
        self.found: deque[float] = deque(maxlen=RECENT)

    def at(self, step: int, cycle: int) -> float | None:
        """Seconds per step, when so many steps are done; None before there is an interval."""
        steps = step - self.step
        if steps and (steps % cycle == 0 or steps >= ENOUGH * cycle):
            now = self.clock()
            seconds = (now - self.time) / steps
            if self.first is None:
                self.first = seconds
            else:
                self.found.append(seconds)
            self.step, self.time = step, now
        return median(self.found) if self.found else self.first


class Meter:
    """What there is to tell of a run at a step."""

    def __init__(self, job: Counted, steps: int, speed: Speed) -> None:
        self.job, self.steps, self.speed = job, steps, speed
        self.unit, self.total = counted(job, steps)

    def count(self, step: int) -> int:
        """How many of the total are done."""
        return step if self.unit == "step" else self.job.updates(step)

    def rate(self, seconds: float | None) -> str:
        """Steps per second, or seconds per step if there are less than one."""
        if not seconds:
            return ""
        return f"{1 / seconds:,.1f} steps/s" if seconds <= 1 else f"{seconds:,.1f} s/step"

    def line(self, step: int, values: Mapping[str, float]) -> str:
        """A line of text."""
        seconds = self.speed.at(step, self.job.cycle)
        parts = [f"step {step}/{self.steps}", self.rate(seconds), summary(values)]
        if self.unit != "step":
            parts.insert(1, f"{self.unit} {self.count(step)}/{self.total}")
        if seconds is not None and step < self.steps:
            parts.insert(-1, f"{coarse(seconds * (self.steps - step))} left")
        return "  ".join(filter(None, parts))


class Left(ProgressColumn):
    """The time until task.fields["end"], a second of the clock, or nothing if that is None."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(WHOLE)
        self.clock = clock

    def render(self, task: Task) -> Text:
        end = task.fields["end"]
        return Text("" if end is None else f"{coarse(max(0.0, end - self.clock()))} left")


@contextmanager
def progress(
    job: Counted, run: Run, done: int, quiet: bool = False, clock: Clock = time.monotonic
) -> Iterator[Show]:
    """Yields what shows a step; it is called at every logged one. quiet: it shows nothing (all ranks but the first)."""
    console, meter = Console(stderr=True), Meter(job, run.steps, Speed(done, clock))
    if quiet:
        yield lambda step, values: None
    elif not console.is_terminal:
        yield lambda step, values: print(meter.line(step, values), file=sys.stderr, flush=True)
    else:
        with bar(meter, done, console, clock) as show:
            yield show


@contextmanager
def bar(meter: Meter, done: int, console: Console, clock: Clock) -> Iterator[Show]:
    """The bar of a terminal."""
    rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)                  # what the others leave of the width
    times = (TextColumn("{task.fields[rate]}"), TimeElapsedColumn(WHOLE), Left(clock))
    counts = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(table_column=WHOLE))
    columns = (*counts, *times, TextColumn("{task.fields[values]}", table_column=rest))
    with Progress(*columns, console=console, refresh_per_second=REDRAWN, expand=True) as shown:
        what, start = f"{meter.unit}s", meter.count(done)
        task = shown.add_task(what, total=meter.total, completed=start, rate="", end=None, values="")

        def show(step: int, values: Mapping[str, float]) -> None:
            seconds = meter.speed.at(step, meter.job.cycle)
            end = None if seconds is None or step == meter.steps else clock() + seconds * (meter.steps - step)
            count, rate = meter.count(step), meter.rate(seconds)
            shown.update(task, completed=count, rate=rate, end=end, values=summary(values))

        yield show


def summary(values: Mapping[str, float]) -> str:
    """The terms in a line, without what told() leaves out; with the player where both have one."""
    terms = [name for name, value in values.items() if told(name, value)]
    short = [name.rpartition("/")[2] for name in terms]
    names = [part if short.count(part) == 1 else name for name, part in zip(terms, short, strict=True)]
    return "  ".join(f"{name} {values[term]:.4g}" for name, term in zip(names, terms, strict=True))


def told(name: str, value: float) -> bool:
    """Whether a number is one for the line: no gradient norm, ratio, measured weight or sign of health, no 0 skips."""
    if name.startswith("health/") or name == SCORE or name.endswith("/raw"):
        return False
    return not ("/weight/" in name or name.endswith(("_norm", "_ratio")) or (name.endswith("/skipped") and value == 0))


def duration(seconds: float) -> str:
    """Two units at most: 0.35 s, 45 s, 2 min 31 s, 1 h 12 min, 3 d 4 h."""
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    i = next(i for i, (_, length) in enumerate(units) if round(seconds) >= length)
    smallest = units[min(i + 1, len(units) - 1)][1]
    rest, parts = round(seconds / smallest) * smallest, list[str]()
    for name, length in units:
        number, rest = divmod(rest, length)
        parts += [f"{number} {name}"] if number else []
    return " ".join(parts)


def coarse(seconds: float) -> str:
    """A duration that is an estimate: whole seconds, and from two minutes on whole minutes."""
    return duration(60 * round(seconds / 60)) if seconds >= 120 else f"{round(seconds)} s"
