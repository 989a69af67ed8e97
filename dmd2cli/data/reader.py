"""Examples of one step read while the step before is trained."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from dmd2cli.data.corrupt import Fetched, Register, fetch
from dmd2cli.protocols import Dataset, Example

Pending = list[Future[list[Fetched]]]
"""The shares of some items, in order."""


class Reader:
    """Reads items of data sets by position, those of the next step ahead of time in threads.

    Items are functions of their position, so threads change nothing but the waiting: any number of them gives the
    same examples, the same messages about corrupt items, and an error at the step whose item raised it. Only data sets
    that say `reads_files = True` are read ahead: for what lies in memory a thread costs more than it saves.
    """

    def __init__(self, workers: int = 0) -> None:
        """workers: threads; 0 reads when asked, in the thread that asks."""
        self.workers, self.corrupt = workers, Register()
        self._ahead: dict[tuple[int, int, tuple[int, ...]], Pending] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._closing = threading.Event()

    def now(self, dataset: Dataset, items: Sequence[int]) -> list[Example]:
        """Some items, read here."""
        return self.corrupt.examples(dataset, (fetch(dataset, i) for i in items))

    def read(self, dataset: Dataset, step: int, items: Callable[[int], Sequence[int]]) -> list[Example]:
        """The items of a step. items: says of any step which; those of the next one are read meanwhile."""
        now = items(step)
        if not self.workers or not getattr(dataset, "reads_files", False):
            return self.now(dataset, now)
        for old in [key for key in self._ahead if key[1] not in (step, step + 1)]:
            cancel(self._ahead.pop(old))
        asked = self._ahead.pop((id(dataset), step, tuple(now)), None) or self._start(dataset, now)
        then = items(step + 1)
        key = (id(dataset), step + 1, tuple(then))
        if key not in self._ahead:
            self._ahead[key] = self._start(dataset, then)
        return self.corrupt.examples(dataset, [one for future in asked for one in future.result()])

    def _start(self, dataset: Dataset, items: Sequence[int]) -> Pending:
        """Hand some items to the threads, an equal share to each."""
        if self._pool is None:
            self._closing = threading.Event()
            self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="dmd2-read")
            weakref.finalize(self, shut, self._pool, self._closing)        # a reader that nobody has keeps no threads
        share = max(1, -(-len(items) // self.workers))
        parts = [items[i : i + share] for i in range(0, len(items), share)]
        return [self._pool.submit(fetch_all, dataset, part, self._closing) for part in parts]

    def close(self) -> None:
        """Stop the threads and forget what they have read. Reading again starts others."""
        if self._pool is not None:
            shut(self._pool, self._closing)
            self._pool.shutdown(wait=True)
        self._pool = None
        self._ahead.clear()


def fetch_all(dataset: Dataset, items: Sequence[int], closing: threading.Event) -> list[Fetched]:
    """Items one after another, up to where nobody wants them any more."""
    found = list[Fetched]()
    for i in items:
        if closing.is_set():
            break
        found.append(fetch(dataset, i))
    return found


def shut(pool: ThreadPoolExecutor, closing: threading.Event) -> None:
    """Let the threads of a pool end after the item they are at."""
    closing.set()
    pool.shutdown(wait=False, cancel_futures=True)


def cancel(futures: Pending) -> None:
    """What is not begun is not read."""
    for future in futures:
        future.cancel()
