"""Where every rank is: what a job that hangs or loses a rank can say about it.

The training thread only assigns two attributes. In a distributed run a thread of its own publishes them, and ends its
process if another rank has given up: whoever sleeps, or waits for the dead, does not hold the others' machines.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

EVERY = 0.25
"""Seconds between two notes of where a rank is."""
GRACE = 3.0
"""Seconds in which ranks that waited for the same one come to the same end."""
TRIES = 20
"""How often a rank looks, in a third of that time, whether the first one tells."""


class Store(Protocol):
    """What a watch asks of torch.distributed.Store."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def check(self, keys: list[str]) -> bool: ...


@dataclass
class Place:
    """Of this process in its run."""

    phase: str = "start"
    step: int = 0
    first: int = 0
    """The step at which this process began."""

    def __str__(self) -> str:
        return f"phase '{self.phase}' of step {self.step}"


here = Place()


def at(phase: str, step: int | None = None) -> None:
    """Note that a phase begins: data, generator, critic, save and the like; step: if another one does."""
    here.phase = phase
    if step is not None:
        here.step = step


class Watch:
    """Tells the other ranks where this one is, and learns where they are."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.store, self.rank, self.size, self.told = store, rank, size, 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, name="dmd2-watch", daemon=True)
        self.thread.start()
        atexit.register(self.close)                        # an interpreter that ends must not meet it inside the store

    def _run(self) -> None:
        try:
            since = None
            while not self.over.wait(EVERY):
                self.tell()
                if since is None and self.store.check(["lost"]):
                    since = time.monotonic()
                if since is not None and time.monotonic() - since > 2 * GRACE:
                    os._exit(2)                            # the thread that trains sleeps, or waits for the dead
        except RuntimeError:                               # the store is gone: so is the rank that kept it
            return

    def tell(self) -> None:
        """Note where this rank is, and the how manieth note this is: clocks of machines differ."""
        self.told += 1
        self.store.set(f"at/{self.rank}", json.dumps([str(here), self.told]))

    def notes(self) -> dict[int, tuple[str, int]]:
        """The newest note of every rank that has made one."""
        there = [r for r in range(self.size) if self.store.check([f"at/{r}"])]
        return {r: tuple(json.loads(self.store.get(f"at/{r}"))) for r in there}

    def missing(self) -> str:
        """After a collective has failed here: which ranks never came to say the same, and where they were."""
        try:
            self.store.set("lost", "")
            self.store.set(f"gave-up/{self.rank}", "")
            before = self.notes()
            time.sleep(GRACE)
            waiting = [r for r in range(self.size) if self.store.check([f"gave-up/{r}"])]
            return "; ".join(where(r, before, self.notes()) for r in range(self.size) if r not in waiting)
        except RuntimeError:                               # without torchrun the store is the first rank's
            return "rank 0 died, and with it what is known of the others"

    def others_ended(self) -> bool:
        """Whether another rank has ended with an error of its own."""
        try:
            return any(self.store.check([f"ended/{r}"]) for r in range(self.size) if r != self.rank)
        except RuntimeError:                               # nobody can say so any more
            return False

    def ended(self, rank: int) -> bool:
        """Note that this rank ends with an error of its own; whether another one has said so, or the first will."""
        if self.others_ended():
            return True
        with suppress(RuntimeError):                       # the store is gone
            for _ in range(TRIES if rank else 0):          # an error that all ranks have is told by the first
                if self.store.check(["ended/0"]):
                    return True
                time.sleep(GRACE / 3 / TRIES)
            self.store.set(f"ended/{rank}", "")
            if not rank:
                time.sleep(GRACE / 3)                      # without torchrun the store ends with this process
        return False

    def close(self) -> None:
        """No more notes."""
        self.over.set()
        self.thread.join(GRACE)


def where(rank: int, before: Mapping[int, tuple[str, int]], after: Mapping[int, tuple[str, int]]) -> str:
    """A rank, in words, by what it noted at two moments."""
    if rank not in after:
        return f"rank {rank} never began"
    silent = before.get(rank) == after[rank]
    return f"rank {rank} {'died, last seen' if silent else 'is stuck'} in {after[rank][0]}"
