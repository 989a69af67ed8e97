"""How far a long command is: a bar with rate and time left on a terminal, now and then a line elsewhere; on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

EVERY = 10.0
"""Seconds between two lines where there is no terminal."""


class Rate(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


@contextmanager
def progress(what: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yields what counts further items. done: those of an earlier run."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lines(what, total, done)
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), Rate(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda n: bar.advance(task, n)


def lines(what: str, total: int, done: int) -> Callable[[int], None]:
    """Counts, and prints a line every EVERY seconds and at the end."""
    count, told = done, time.monotonic()

    def more(n: int) -> None:
        nonlocal count, told
        count += n
        if count == total or time.monotonic() - told >= EVERY:
            told = time.monotonic()
            print(f"{what} {count}/{total}", file=sys.stderr, flush=True)

    return more
