"""Randomness as a function of (seed, step, stream, position in the global batch), and of nothing else.

Each stream draws the tensor of the whole global batch from one generator keyed by (seed, step, stream) and
hands out the rows of a micro-batch. So neither the rank count, nor the micro-batch, nor a resume, nor another
loss term beside it changes what a sample sees. Control flow (`index`) is drawn once for the whole world.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor


class Streams(Protocol):
    """Named streams of noise: all that a sampler asks of randomness."""

    def normal(self, name: str, like: Tensor) -> Tensor:
        """Unit normal of like's shape, on its device, float32."""


class Rng:
    """Named random streams of one training step, seen through the rows of one micro-batch."""

    def __init__(self, seed: int, step: int, rows: slice | None = None, total: int = 0, name: str = "") -> None:
        """rows: the rows of the global batch of `total` samples that draws are for."""
        self.seed, self.step, self.rows, self.total, self.name = seed, step, rows, total, name

    def at(self, rows: slice, total: int) -> Rng:
        """The same streams, seen from other rows."""
        return Rng(self.seed, self.step, rows, total, self.name)

    def stream(self, name: str) -> Rng:
        """A child whose draws are independent of every differently named one."""
        return Rng(self.seed, self.step, self.rows, self.total, f"{self.name}/{name}")

    def sibling(self, name: str) -> Rng:
        """The stream of that name beside this one: the same draws as whoever was given it."""
        return Rng(self.seed, self.step, self.rows, self.total, f"{self.name.rpartition('/')[0]}/{name}")

    def normal(self, name: str, like: Tensor) -> Tensor:
        """Unit normal of like's shape (this micro-batch's rows first), device and dtype float32."""
        return self._rows(name, like, lambda shape, g: torch.randn(shape, generator=g, device=g.device))

    def uniform(self, name: str, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform in [low, high), one number per row of like: shape (b,)."""
        unit = self._rows(name, like[:, :0], lambda shape, g: torch.rand(shape[:1], generator=g, device=g.device))
        return low + (high - low) * unit

    def index(self, name: str, n: int) -> int:
        """An integer in [0, n), one for the whole world."""
        return int(torch.randint(n, (), generator=self.generator(name, torch.device("cpu"))))

    def _rows(self, name: str, like: Tensor, draw: Callable[[tuple[int, ...], torch.Generator], Tensor]) -> Tensor:
        total = self.total or len(like)
        whole = draw((total, *like.shape[1:]), self.generator(name, like.device))
        return whole[self.rows] if self.rows is not None else whole

    def generator(self, name: str, device: torch.device) -> torch.Generator:
        """A fresh generator for (seed, step, stream), on the device it will draw on."""
        key = f"{self.seed}/{self.step}{self.name}/{name}".encode()
        number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
        return torch.Generator(device).manual_seed(number)


class Numbered:
    """Streams of numbered images: what image i sees is a function of (seed, i), however images are batched."""

    def __init__(self, seed: int | Sequence[int], numbers: Sequence[int]) -> None:
        """seed: of all rows, or one per row of the batch. numbers: one per row."""
        seeds = [seed] * len(numbers) if isinstance(seed, int) else seed
        self.keys = list(zip(seeds, numbers, strict=True))

    def normal(self, name: str, like: Tensor) -> Tensor:
        """Unit normal of like's shape, row r drawn for image numbers[r]."""
        return torch.cat([Rng(seed, i).normal(name, like[:1]) for seed, i in self.keys])
