"""tiny: a small network of fixed random weights, for tests and a look at the pipeline; its distances mean nothing."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor, nn

from dmd2cli.features import Features

CHANNELS = (3, 16, 32, 64)


class Tiny(nn.Module):
    """Images of 2 x 2 pixels or more, at their own size -> 64 features and 10 logits."""

    name, dims, fingerprint = "tiny", CHANNELS[-1], "tiny-1"

    def __init__(self) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(0)
        for i, (inner, outer) in enumerate(pairwise(CHANNELS)):
            kernel = torch.randn(outer, inner, 3, 3, generator=source) * (2 / (9 * inner)) ** 0.5
            self.register_buffer(f"kernel{i}", kernel)
        self.register_buffer("classes", torch.randn(10, self.dims, generator=source))

    @property
    def protocol(self) -> Mapping[str, Any]:
        return {
            "network": "three random convolutions of stride 2, mean over pixels; comparable, but without meaning",
            "resize": "none",
            "scale": "x / 127.5 - 1",
            "precision": "float32",
            "weights": self.fingerprint,
        }

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> Features:
        x = images.float() / 127.5 - 1
        for i in range(len(CHANNELS) - 1):
            x = F.leaky_relu(F.conv2d(x, getattr(self, f"kernel{i}"), stride=2, padding=1), 0.2)
        vectors = x.mean((2, 3))
        return Features(vectors, vectors @ self.get_buffer("classes").T)
