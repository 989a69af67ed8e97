"""How long the run will take on this machine, measured over its first cycles and said once. Nothing waits for it."""

from __future__ import annotations

import time
from itertools import pairwise
from statistics import median

import torch

from dmd2cli.engine import runtime
from dmd2cli.engine.progress import Clock, Counted, counted, duration
from dmd2cli.engine.room import peak, size
from dmd2cli.recipe import Run

WARM = 2
"""Student updates before the measurement: between the two, everything was done once."""

CYCLES = 3, 10
"""Fewest and most cycles that are measured; a tenth of the run if that lies between."""

PATIENCE = 10.0
"""Seconds after which fewer have to do."""

MARGIN = 1.1
"""How much longer a limit has to be than the run to be surely long enough."""


class Laps:
    """Moments of a run: the clock's, or on a CUDA device events in its stream, waited for when they are read."""

    def __init__(self, device: torch.device, clock: Clock) -> None:
        self.device, self.clock = device, clock
        self.times, self.events = list[float](), list[torch.cuda.Event]()

    def mark(self) -> None:
        """Note a moment, without waiting for anything."""
        self.times.append(self.clock())
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self.device))
            self.events.append(event)

    def seconds(self) -> list[float]:
        """From each moment to the next; waits for the device to reach the last."""
        if not self.events:
            return [after - before for before, after in pairwise(self.times)]
        self.events[-1].synchronize()
        return [before.elapsed_time(after) / 1000 for before, after in pairwise(self.events)]


class Pace:
    """Measures cycles after a warm-up, from one student update to the next, and the memory that they take."""

    def __init__(
        self, job: Counted, run: Run, start: int, device: torch.device | None = None, clock: Clock = time.monotonic
    ) -> None:
        """start: steps that were done before this process. device: of this rank; None = the one of run.device.

        The time of run.time_limit counts from now.
        """
        self.job, self.run, self.start, self.clock = job, run, start, clock
        self.began, self.device = clock(), device or runtime.device(run.device)
        self.unit, _ = counted(job, run.steps)
        self.laps, self.marks = Laps(self.device, clock), list[int]()                # the steps done at each of them
        self.before = self.moved = job.updates(start)
        fewest, most = CYCLES
        self.wanted = min(most, max(fewest, (job.updates(run.steps) - self.before) // 10))
        self.done = False

    def stepped(self, done: int) -> str | None:
        """What there is to say, once that is known; None at every other step. To be called with the steps done.

        A run of less than five quick student updates says nothing.
        """
        if self.done or (moved := self.job.updates(done)) == self.moved:
            return None
        self.moved = moved
        if moved - self.before >= WARM:
            self.laps.mark()
            self.marks.append(done)
        cycles, times = len(self.marks) - 1, self.laps.times
        if cycles < 1 or (cycles < self.wanted and times[-1] - times[0] < PATIENCE):
            return None
        self.done = True
        laps = zip(self.laps.seconds(), pairwise(self.marks), strict=True)
        return self.text(done, median(seconds / (after - before) for seconds, (before, after) in laps))

    def text(self, done: int, step: float) -> str:
        """What to say. step: seconds of one."""
        cycle, steps, held = self.job.cycle, self.run.steps, peak(self.device)
        each = f" ({cycle} steps each)" if self.unit != "step" and cycle > 1 else ""
        memory = f", {size(held)} of memory" if held is not None else ""
        updates, first = self.counted(steps), "the remaining " if self.start else ""
        one = duration(step if self.unit == "step" else step * cycle)
        whole = duration(step * (steps - self.start))
        needs = f"{first}{updates} {self.unit}s take {whole}"
        return f"{one} per {self.unit}{each}{memory}; {needs}{self.limit(done, step)}"

    def counted(self, step: int) -> int:
        """Student updates of this process, when so many steps are done."""
        return step - self.start if self.unit == "step" else self.job.updates(step) - self.before

    def limit(self, done: int, step: float) -> str:
        """What fits in run.time_limit."""
        if self.run.time_limit is None:
            return ""
        limit, steps = 60 * self.run.time_limit, self.run.steps
        stop = done + max(0, int((limit - (self.clock() - self.began)) / max(step, 1e-9)))
        if stop >= steps:
            sure = stop >= self.start + MARGIN * (steps - self.start)
            return f", {'within' if sure else 'about'} run.time_limit ({duration(limit)})"
        stop = stop if (about := self.start + rounded(stop - self.start)) >= steps else about
        return (
            f"; run.time_limit ({duration(limit)}) is enough for {self.counted(stop)} of them: "
            f"the run will stop at step ~{stop} of {steps} and the same command continues"
        )


def rounded(number: int) -> int:
    """To two digits: what is said of the future is no more exact."""
    return round(number, min(0, 2 - len(str(number))))
