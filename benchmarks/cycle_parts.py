"""Where the time of a step goes: data, samples, losses of either player, optimiser, moving average."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from dmd2cli.engine.distill import DistillJob
from dmd2cli.engine.distillation import Distillation
from dmd2cli.engine.player import Player
from dmd2cli.engine.watch import here

PARTS = ("data", "sample", "generator", "critic", "optimiser", "EMA", "rest")


class Parts:
    """Seconds by part, of this process's CPU time on a CPU, of the stream's on a GPU, which it does not hold up.

    What belongs to a part inside of another is the inner one's. `wait` are the clock's seconds in the loader.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda, self.stack, self.wait = device.type == "cuda", ["rest"], 0.0
        self.marks = list[tuple[str, Any]]()

    def mark(self) -> None:
        """From now on it is the innermost part's time."""
        if self.cuda:
            now: Any = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.process_time()
        self.marks.append((self.stack[-1], now))

    def seconds(self) -> dict[str, float]:
        """Of every part; waits for the GPU."""
        self.mark()
        if self.cuda:
            torch.cuda.synchronize()
        found = Counter(dict.fromkeys(PARTS, 0.0))
        for (name, start), (_, end) in zip(self.marks, self.marks[1:], strict=False):
            found[name] += start.elapsed_time(end) / 1000 if self.cuda else end - start
        return dict(found)

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """It is this part's turn."""
        self.stack.append(name)
        self.mark()
        try:
            yield
        finally:
            self.stack.pop()
            self.mark()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Steps that are made inside are taken apart."""
        places = (
            (DistillJob, "batches", "data"), (Distillation, "student", "sample"), (Player, "update", None),
            (Player, "_optimise", "optimiser"), (Player, "_average", "EMA"),
        )  # fmt: skip
        with ExitStack() as stack:
            for owner, method, name in places:
                stack.enter_context(patch.object(owner, method, self.watched(getattr(owner, method), name)))
            self.mark()
            yield

    def watched(self, inner: Any, name: str | None) -> Any:
        """The method as a part; None: that of the player whose turn it is."""

        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            with self.within(name or here.phase):
                result = inner(*args, **kwargs)
            self.wait += time.perf_counter() - started if name == "data" else 0.0
            return result

        return call
