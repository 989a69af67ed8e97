"""Work on a source in parts, by several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from dmd2cli.errors import UserError

R = TypeVar("R")
_work: Callable[[range], Any] | None = None
"""In a worker process: what it was given to do."""


def cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def cut(n: int, size: int) -> list[range]:
    """range(n) in parts of size."""
    return [range(first, min(first + size, n)) for first in range(0, n, size)]


def results(work: Callable[[range], R], parts: Sequence[range], workers: int) -> Generator[tuple[range, R]]:
    """(part, what work makes of it), in the order in which they are done.

    work: picklable; each process gets it once. workers: processes; 1 = this one. When the caller stops, parts that
    are not begun are dropped and the others end. Raises what work raises; UserError if a process is killed.
    """
    if workers == 1 or len(parts) <= 1:
        yield from ((part, work(part)) for part in parts)
        return
    spawn = multiprocessing.get_context("spawn")                   # a fork would copy locks of threads as they are
    pool = ProcessPoolExecutor(min(workers, len(parts)), spawn, initializer=begin, initargs=(work,))
    try:
        asked = {pool.submit(do, part): part for part in parts}
        for future in as_completed(asked):
            yield asked.pop(future), future.result()
    except BrokenProcessPool:
        raise UserError("a worker process was killed, for want of memory most likely; use fewer --workers") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def begin(work: Callable[[range], Any]) -> None:
    """What a worker process does first: Ctrl-C is for its parent, whose end is its own."""
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """End this process when its parent is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def do(part: range) -> Any:
    """One part, in a worker process."""
    assert _work is not None
    return _work(part)
