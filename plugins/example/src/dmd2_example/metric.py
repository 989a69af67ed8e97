"""A metric: how strong the edges of images are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dmd2cli.protocols import Raw
from torch import Tensor


class Sharpness:
    """The mean difference between neighbouring pixels, 0 for flat images, at most 1."""

    name = "dmd2-example"

    def __init__(self) -> None:
        self.total, self.images = 0.0, 0
        self.protocol: Mapping[str, Any] = {"direction": "higher is sharper", "neighbours": "right and below"}
        """What a reader has to know to compare two numbers."""

    def update(self, images: Tensor, conditions: Sequence[Raw]) -> None:
        """images: uint8 (b, 3, h, w)."""
        grey = images.float().mean(1) / 255
        across, down = grey.diff(dim=-1).abs(), grey.diff(dim=-2).abs()
        self.total += float((across.flatten(1).mean(1) + down.flatten(1).mean(1)).double().sum()) / 2
        self.images += len(images)

    def compute(self) -> Mapping[str, float]:
        """The number under "value" is the metric's own."""
        return {"value": self.total / max(1, self.images)}

    def real(self, n: int, seed: int) -> Mapping[str, float]:
        """The same numbers for n real images; none, as this metric knows none."""
        return {}
