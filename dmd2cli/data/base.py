"""From a position in the training run to a batch: no loader state, so nothing to save and nothing to lose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from dmd2cli.core.denoiser import Cond
from dmd2cli.core.random import Rng
from dmd2cli.core.transfer import onto
from dmd2cli.data.reader import Reader
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


def condition(dataset: Dataset, i: int) -> Raw:
    """The condition of item i, without reading the rest of it where the data set can."""
    found: Callable[[int], Raw] | None = getattr(dataset, "condition", None)
    return found(i) if found is not None else dataset[i].condition


@torch.no_grad()
def in_model_units(teacher: Teacher, images: Tensor, noise: Tensor | None = None) -> Tensor:
    """Latents of images in [-1, 1] (b, 3, h, w) by a teacher whose decode also encodes: the mean, or a sample."""
    encode: Callable[[Tensor, Tensor | None], Tensor] = teacher.decode.latents  # type: ignore[attr-defined]
    return encode(images, noise)


@dataclass(frozen=True)
class PairBatch:
    """The noise-image pairs of one micro-batch. where: the rows of the batch they are, if they are part of it."""

    noise: Tensor
    x: Tensor
    cond: Cond
    where: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """One micro-batch: the rows of the global batch it holds, conditions to generate for, real data, pairs."""

    rows: slice
    total: int
    cond: Cond
    null: Cond
    x: Tensor | None = None
    real_cond: Cond = field(default_factory=dict)
    raw: Sequence[Raw] = ()
    pair: PairBatch | None = None

    def __len__(self) -> int:
        return self.rows.stop - self.rows.start


@dataclass(frozen=True)
class Paired:
    """A set of noise-image pairs in use: how many per update, and whether they are part of the batch ([DMD] Alg. 1)."""

    dataset: Dataset
    batch: int
    matched: bool = False


@dataclass(frozen=True)
class Loader:
    """Batches by step: item i of step s is position s * batch + i of each stream."""

    seed: int
    batch: int
    micro_batch: int
    device: torch.device
    prompts: Dataset | None = None
    real: Dataset | None = None
    pairs: Paired | None = None
    prompts_of_real: bool = False
    """Samples are generated for the conditions of the real data of the same rows."""
    reader: Reader = field(default_factory=Reader)
    """Reads the data of the next step meanwhile, if it has workers."""

    def examples(self, dataset: Dataset, stream: str, positions: Sequence[int]) -> list[Example]:
        """The items at some positions of a stream; the next good one where an item is corrupt."""
        return self.reader.now(dataset, self._items(dataset, stream, positions))

    def __call__(self, step: int, teacher: Teacher, rows: slice | None = None) -> list[Batch]:
        """The micro-batches of a step, on the device, conditions encoded. rows: a rank's share; None = all of them."""
        mine = range(self.batch)[rows or slice(None)]
        starts = range(mine.start, mine.stop, self.micro_batch)
        return [self._batch(step, slice(i, min(i + self.micro_batch, mine.stop)), teacher) for i in starts]

    def close(self) -> None:
        """Stop the threads that read ahead. They also stop when the loader is forgotten."""
        self.reader.close()

    def _batch(self, step: int, rows: slice, teacher: Teacher) -> Batch:
        real = self._real(step, rows) if self.real is not None else []
        asked = list(real) if self.prompts_of_real else self._prompts(step, rows)
        found, where = self._pairs(step, rows)
        if found and where:
            for row, example in zip(where, found, strict=True):
                asked[row] = example
        cond, null = self.encoded(teacher, asked)
        x = self._latents(teacher, real, step, rows) if real else None
        real_cond = self._encode(teacher, real, self.real)[0] if real else {}
        pair = self._paired(found, where, teacher) if found else None
        return Batch(rows, self.batch, cond, null, x, real_cond, [e.condition for e in asked], pair)

    @property
    def asked(self) -> Dataset | None:
        """Whose conditions samples are generated for."""
        return self.real if self.prompts_of_real else self.prompts

    def encoded(self, teacher: Teacher, asked: Sequence[Example]) -> tuple[Cond, Cond]:
        """(condition, null condition) of some examples of what is asked, on the device."""
        return self._encode(teacher, asked, self.asked)

    def reals(self, step: int, rows: slice) -> tuple[Tensor, list[Raw]]:
        """Real samples (b, *d) of some rows of a step's global batch, and their conditions."""
        found = self._real(step, rows)
        return self._x(found), [e.condition for e in found]

    def _real(self, step: int, rows: slice) -> list[Example]:
        assert self.real is not None
        real = self.real
        return self.reader.read(real, step, lambda s: self._items(real, "real", self._positions(s, rows)))

    def _x(self, found: Sequence[Example]) -> Tensor:
        return self._to(torch.stack([e.x for e in found if e.x is not None]))

    def _latents(self, teacher: Teacher, found: Sequence[Example], step: int, rows: slice) -> Tensor:
        """Real samples in model units; images for a teacher of latents become a sample of its VAE's posterior."""
        x = self._x(found)
        if tuple(x.shape[1:]) == tuple(teacher.shape) or not hasattr(teacher.decode, "latents"):
            return x
        noise = Rng(self.seed, step).at(rows, self.batch).normal("posterior", x.new_empty(len(x), *teacher.shape))
        return self._to(in_model_units(teacher, x, noise))

    def _items(self, dataset: Dataset, stream: str, positions: Sequence[int]) -> list[int]:
        return [item(self.seed, stream, p, len(dataset)) for p in positions]

    def _positions(self, step: int, rows: slice) -> range:
        return range(step * self.batch + rows.start, step * self.batch + rows.stop)

    def _prompts(self, step: int, rows: slice) -> list[Example]:
        if self.prompts is None:
            return [Example()] * (rows.stop - rows.start)
        prompts = self.prompts
        return self.reader.read(prompts, step, lambda s: self._items(prompts, "prompts", self._positions(s, rows)))

    def _pairs(self, step: int, rows: slice) -> tuple[list[Example], list[int]]:
        """The pairs that go with some rows, and which of these rows they are; spread evenly over the global batch."""
        if self.pairs is None:
            return [], []
        n = self.pairs.batch
        first, last = rows.start * n // self.batch, rows.stop * n // self.batch
        found = self.examples(self.pairs.dataset, "pairs", range(step * n + first, step * n + last))
        if not self.pairs.matched:
            return found, []
        return found, [-(-i * self.batch // n) - rows.start for i in range(first, last)]

    def _paired(self, found: Sequence[Example], where: Sequence[int], teacher: Teacher) -> PairBatch:
        noise = torch.stack([e.noise for e in found if e.noise is not None])
        cond = self._encode(teacher, found, None)[0]
        rows = self._to(torch.tensor(where)) if where else None
        return PairBatch(self._to(noise), self._x(found), cond, rows)

    def _encode(self, teacher: Teacher, found: Sequence[Example], of: Dataset | None) -> tuple[Cond, Cond]:
        """(condition, null condition) of some examples: as they come with them, or by the teacher.

        Encoded ones are stored in half precision, and become float32 on the device.
        """
        rows = [e.encoded for e in found if e.encoded is not None]
        if rows and len(rows) == len(found):
            blank: Mapping[str, Tensor] = of.null  # type: ignore[union-attr]
            stored = {k: self._to(torch.stack([row[k] for row in rows])).float() for k in blank}
            return stored, {k: self._to(v).float().expand_as(stored[k]) for k, v in blank.items()}
        cond, null = teacher.encode([e.condition for e in found])
        return {k: self._to(v) for k, v in cond.items()}, {k: self._to(v) for k, v in null.items()}

    def _to(self, x: Tensor) -> Tensor:
        return onto(x, self.device)
