"""The 1,797 handwritten digits of scikit-learn (UCI optical recognition test set, CC BY 4.0), 8 x 8."""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from dmd2cli.errors import UserError
from dmd2cli.protocols import Example

CLASSES = 10


@cache
def images() -> tuple[Float[Tensor, "1797 1 8 8"], Int[Tensor, 1797]]:
    """(x in [-1, 1] on 17 grey levels, labels 0...9), in scikit-learn's order."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.from_numpy(found.images).float()[:, None] / 8 - 1, torch.from_numpy(found.target).long()


def to_uint8(x: Float[Tensor, "b 1 8 8"]) -> UInt8[Tensor, "b 3 8 8"]:
    """Model units [-1, 1] to grey RGB images 0...255, rounded to nearest; anything outside is clipped."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1)


class Digits:
    """Dataset: split all | train | test (the first 80 % and the last 20 %)."""

    def __init__(self, split: str = "all") -> None:
        x, labels = images()
        cut = len(x) * 4 // 5
        parts = {"all": slice(None), "train": slice(0, cut), "test": slice(cut, None)}
        if split not in parts:
            raise UserError(f"digits: split must be one of {', '.join(parts)}, got '{split}'")
        self.x, self.labels = x[parts[split]].unbind(), labels[parts[split]].tolist()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Example:
        return Example(self.x[i], self.labels[i])
