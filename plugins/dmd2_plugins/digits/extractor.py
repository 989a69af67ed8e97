"""The features of the digit classifier as a space for any metric: fd in it, against all digits, is fd-digits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import UInt8
from torch import Tensor, nn

from dmd2_plugins.digits.classifier import SEEDS, embed, load, weights
from dmd2_plugins.digits.data import images, to_uint8
from dmd2cli.cache import sha256
from dmd2cli.errors import UserError
from dmd2cli.features import Features


class DigitFeatures(nn.Module):
    """8 x 8 images -> 64 features of mean variance 1 over the real digits, and 10 logits. classifier: training seed."""

    name, dims = "digits", 64

    def __init__(self, classifier: int = 0) -> None:
        super().__init__()
        if classifier not in SEEDS:
            raise UserError(f"extractor 'digits': classifier must be one of {SEEDS}, got {classifier}")
        self.network = load(classifier)
        self.scale = float(embed(self.network, to_uint8(images()[0]))[0].var(dim=0).mean().rsqrt())
        self.fingerprint = f"digits-1:{sha256(weights(classifier))}"

    @property
    def protocol(self) -> Mapping[str, Any]:
        return {
            "network": "a small digit classifier, 64-d penultimate layer",
            "resize": "none: 8 x 8 pixels, first channel",
            "scale": "x / 127.5 - 1; features by one scalar to mean variance 1 over the real digits",
            "precision": "float32",
            "weights": self.fingerprint,
        }

    def forward(self, images: UInt8[Tensor, "b 3 8 8"]) -> Features:
        if images.shape[1:] != (3, 8, 8):
            raise UserError(f"extractor 'digits': images must be 8 x 8, got {images.shape[3]} x {images.shape[2]}")
        found = self.network.features(images[:, :1].float() / 127.5 - 1)
        return Features(found * self.scale, self.network.head(found))
