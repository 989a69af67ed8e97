"""Being asked to stop: by a person, by a scheduler, by torchrun."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dmd2cli.engine.share import share

NUMBERS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""SIGUSR1 is what Slurm is told to send before a job's time is over."""
TOGETHER = 3.0
"""Seconds in which signals count as one: a terminal and torchrun both pass on the same Ctrl-C."""


@dataclass
class Stop:
    """Set by the first signal; another one, later, interrupts at once."""

    signals: list[int] = field(default_factory=list)
    since: float = 0.0

    def catch(self, number: int, frame: Any) -> None:
        if not self.signals:
            self.since = time.monotonic()
            if share().rank == 0:
                print("stopping after this step; once more to stop at once", file=sys.stderr)
        elif time.monotonic() - self.since > TOGETHER:
            raise KeyboardInterrupt
        self.signals.append(number)


@contextmanager
def interruptible() -> Iterator[Stop]:
    """Signals end the current step in order instead of breaking it."""
    stop = Stop()
    before = [signal.signal(number, stop.catch) for number in NUMBERS]
    try:
        yield stop
    finally:
        for number, handler in zip(NUMBERS, before, strict=True):
            signal.signal(number, handler)
