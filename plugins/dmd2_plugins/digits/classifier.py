"""A small digit classifier whose 64 penultimate features are the space of fd-digits."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dmd2cli.weights import load_weights

SEEDS = (0, 1, 2)
"""Training seeds of the shipped classifiers; 0 is the metric's own, the others check it."""


class Classifier(nn.Module):
    """Images (b, 1, 8, 8) in [-1, 1] -> logits (b, 10)."""

    def __init__(self, width: int = 32, features: int = 64) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.norm1, self.norm2, self.norm3 = (nn.GroupNorm(4, c) for c in (width, width, 2 * width))
        self.embed, self.head = nn.Linear(2 * width * 4, features), nn.Linear(features, 10)
        self.dropout = nn.Dropout(0.2)

    def features(self, x: Float[Tensor, "b 1 8 8"]) -> Float[Tensor, "b 64"]:
        """Penultimate activations, before the last non-linearity's dropout."""
        h = F.max_pool2d(F.silu(self.norm2(self.conv2(F.silu(self.norm1(self.conv1(x)))))), 2)
        h = F.max_pool2d(F.silu(self.norm3(self.conv3(h))), 2)
        return F.silu(self.embed(h.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(x)))


def weights(seed: int) -> Path:
    """Where the shipped classifier of a training seed lies."""
    return Path(__file__).with_name(f"classifier-{seed}.safetensors")


def load(seed: int = 0) -> Classifier:
    """A shipped classifier, frozen, in evaluation mode."""
    found = Classifier()
    load_weights(found, weights(seed))
    return found.eval().requires_grad_(False)


@torch.no_grad()
def embed(classifier: Classifier, images: UInt8[Tensor, "b 3 8 8"]) -> tuple[Float[Tensor, "b 64"], Tensor]:
    """(features, predicted labels) of uint8 images, in batches."""
    feats, labels = [], []
    for chunk in torch.split(images[:, :1], 1000):
        h = classifier.features(chunk.float() / 127.5 - 1)
        feats.append(h)
        labels.append(classifier.head(h).argmax(1))
    return torch.cat(feats), torch.cat(labels)
