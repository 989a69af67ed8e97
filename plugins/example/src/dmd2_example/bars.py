"""Pictures of bars, so that this package can be tried at once. Your data goes here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from dmd2cli.core.random import Rng
from torch import Tensor

SIDE = 8
CLASSES = 2
"""0: a bright bar that lies, 1: one that stands."""


def bars(numbers: Sequence[int], seed: int = 0) -> tuple[Tensor, list[int]]:
    """Pictures (b, 1, 8, 8) in [-1, 1] and their labels; picture i is a function of (seed, i)."""
    x = torch.full((len(numbers), 1, SIDE, SIDE), -1.0)
    labels = [i % CLASSES for i in numbers]
    for picture, i, label in zip(x, numbers, labels, strict=True):
        place = int(torch.randint(SIDE, (), generator=Rng(seed, i).generator("place", torch.device("cpu"))))
        picture.select(1 + label, place).fill_(1.0)
    return x, labels
