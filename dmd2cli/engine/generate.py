"""Many images into files: numbered, shared out among processes, continued where an earlier run stopped.

Image i is a function of the network, the sampler, the seed, its condition and i. Batches start at multiples of one
size, whoever draws them, so that any split gives the same bytes on the same kind of machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from dmd2cli.data.progress import progress
from dmd2cli.draws import Draws
from dmd2cli.engine.image_set import PACKED, ImageSet, finish, packed
from dmd2cli.engine.share import Share as Share
from dmd2cli.engine.share import share as share
from dmd2cli.errors import UserError
from dmd2cli.images import save_singles
from dmd2cli.protocols import Raw


@dataclass(frozen=True)
class Order:
    """Images `first` to `first` + len(raw) - 1 of a source, for some conditions."""

    source: Draws
    raw: Sequence[Raw]
    seed: int
    batch: int = 250
    seeds: Sequence[int] | None = None
    """One for each image, each of which is number `first` of its own; None: `seed` for all."""
    first: int = 0
    row: tuple[int, int] | None = None
    """Of one image that was drawn before: its row in the batch and the batch's size, which decide its rounding."""
    network: str | None = None
    """identity() of the source before anything was cast."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """What was asked besides, of which images are functions too. JSON values."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What files say for people, and for drawing them again. JSON values."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise UserError(f"--batch {self.batch}: at least 1 image is drawn at once")

    @cached_property
    def made(self) -> dict[str, Any]:
        """How, besides condition and number: JSON values."""
        network = self.network or self.source.identity()
        seed = {"seed": self.seed} if self.seeds is None else {}
        number = {"first": self.first} if self.first and self.seeds is None else {}
        return {"network": network, **self.source.how, **seed, **number, **self.asked}

    def batches(self, mine: Share) -> Iterator[range]:
        """The places of every batch that is this process's."""
        for start in range(mine.rank * self.batch, len(self.raw), mine.world * self.batch):
            yield range(start, min(start + self.batch, len(self.raw)))

    def draw(self, places: range) -> UInt8[Tensor, "n 3 h w"]:
        """The images of some places, in one batch."""
        raw, source = self.raw[places.start : places.stop], self.source
        if self.row is not None:
            row, size = self.row
            return torch.cat(list(source.draw([raw[0]] * size, [self.key(0)[0]] * size, self.first, size)))[row][None]
        if self.seeds is not None:
            return torch.cat(list(source.draw(raw, self.seeds[places.start : places.stop], self.first, self.batch)))
        return torch.cat(list(source.draw(raw, self.seed, self.first + places.start, self.batch)))

    def key(self, place: int) -> tuple[int, int]:
        """Seed and number of one image."""
        return (self.seed, self.first + place) if self.seeds is None else (self.seeds[place], self.first)

    def drawn(self, place: int) -> dict[str, Any]:
        """What the file of one image says, for people and for drawing it again."""
        condition, start = self.raw[place], place - place % self.batch
        what = {} if condition is None else {"prompt" if isinstance(condition, str) else "label": condition}
        seed, number = self.key(place)
        row = self.row or (place - start, min(self.batch, len(self.raw) - start))
        return {**what, "seed": seed, "number": number, **self.about, "row": list(row)}


def generate(order: Order, out: Path, mine: Share) -> dict[str, Any]:
    """Draw what is missing of this process's share into a folder of PNGs, a .zip or a .npz.

    A zip or npz is packed, from a folder beside it, by the process that finds all images there. Gives {"n", "made",
    "complete", "seed", "nfe", "seconds", "out"}; made: images drawn by this call. Raises UserError if what is there
    was made otherwise.
    """
    started = time.perf_counter()
    folder = out.with_name(f".{out.name}.parts") if out.suffix in PACKED else out
    found = ImageSet(folder, order.made, order.raw, order.seeds, order.drawn)
    done = out.suffix in PACKED and packed(out, found)
    made = 0 if done else draw(order, found, mine)
    complete = done or finish(found, out)
    cost = {"nfe": order.source.nfe, "seconds": round(time.perf_counter() - started, 3)}
    return {"n": len(order.raw), "made": made, "complete": complete, "seed": order.seed, **cost, "out": str(out)}


def draw(order: Order, into: ImageSet, mine: Share) -> int:
    """Draw every batch of which an image is missing, and write those that are; returns how many."""
    there, batches = into.there(), list(order.batches(mine))
    missing = [(batch, [i for i in batch if i not in there]) for batch in batches]
    todo = sum(len(numbers) for _, numbers in missing)
    with progress("images", sum(map(len, batches)), sum(map(len, batches)) - todo) as show:
        for batch, numbers in missing:
            if numbers:
                chosen = order.draw(batch)[[i - batch.start for i in numbers]]
                save_singles(chosen, into.folder, numbers, [into.note(i) for i in numbers])
                show(len(numbers))
    return todo
