"""From a position in the training run to a batch: no loader state, so nothing to save and nothing to lose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from dmd2cli.core.denoiser import Cond
from dmd2cli.core.random import Rng
from dmd2cli.protocols import Dataset, Example, Raw, Teacher

SHORT = 1024
"""Passes over fewer items are shuffled several at a time, because a draw costs the same for few as for many."""


@lru_cache(maxsize=8)
def _order(seed: int, stream: str, block: int, n: int) -> list[int]:
    """The items of one pass over n of them, or of as many passes over few as make about SHORT."""
    generator = Rng(seed, block).generator(stream, torch.device("cpu"))
    return torch.rand(max(1, SHORT // n), n, generator=generator).argsort(dim=1).flatten().tolist()


def item(seed: int, stream: str, position: int, n: int) -> int:
    """Which of n items stands at a position of the endless stream of passes, each shuffled anew."""
    block, i = divmod(position, n * max(1, SHORT // n))
    return _order(seed, stream, block, n)[i]


@dataclass(frozen=True)
class Batch:
    """One micro-batch: the rows of the global batch it holds, conditions to generate for, real data."""

    rows: slice
    total: int
    cond: Cond
    null: Cond
    x: Tensor | None = None
    real_cond: Cond = field(default_factory=dict)

    def __len__(self) -> int:
        return self.rows.stop - self.rows.start


@dataclass(frozen=True)
class Loader:
    """Batches by step: item i of step s is position s * batch + i of each stream."""

    seed: int
    batch: int
    micro_batch: int
    device: torch.device
    prompts: Dataset | None = None
    real: Dataset | None = None

    def examples(self, dataset: Dataset, stream: str, step: int, rows: slice) -> list[Example]:
        """The items of some rows of a step's global batch."""
        first = step * self.batch
        positions = range(first + rows.start, first + rows.stop)
        return [dataset[item(self.seed, stream, p, len(dataset))] for p in positions]

    def __call__(self, step: int, teacher: Teacher) -> list[Batch]:
        """The micro-batches of a step, on the device, conditions encoded."""
        starts = range(0, self.batch, self.micro_batch)
        return [self._batch(step, slice(i, i + self.micro_batch), teacher) for i in starts]

    def _batch(self, step: int, rows: slice, teacher: Teacher) -> Batch:
        cond, null = self._encode(teacher, self._prompts(step, rows))
        if self.real is None:
            return Batch(rows, self.batch, cond, null)
        x, raw = self.reals(step, rows)
        return Batch(rows, self.batch, cond, null, x, self._encode(teacher, raw)[0])

    def reals(self, step: int, rows: slice) -> tuple[Tensor, list[Raw]]:
        """Real samples (b, *d) of some rows of a step's global batch, and their conditions."""
        assert self.real is not None
        found = self.examples(self.real, "real", step, rows)
        return self._to(torch.stack([e.x for e in found if e.x is not None])), [e.condition for e in found]

    def _prompts(self, step: int, rows: slice) -> list[Raw]:
        if self.prompts is None:
            return [None] * (rows.stop - rows.start)
        return [e.condition for e in self.examples(self.prompts, "prompts", step, rows)]

    def _encode(self, teacher: Teacher, raw: Sequence[Raw]) -> tuple[Cond, Cond]:
        cond, null = teacher.encode(raw)
        return {k: self._to(v) for k, v in cond.items()}, {k: self._to(v) for k, v in null.items()}

    def _to(self, x: Tensor) -> Tensor:
        return x.to(self.device, non_blocking=True)
