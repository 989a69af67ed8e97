"""Two rewards for digits: one that asks for what is there already, one whose effect is seen at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dmd2_plugins.digits.classifier import SEEDS, load
from dmd2cli.core.transfer import onto
from dmd2cli.errors import UserError
from dmd2cli.protocols import Raw, Reward

METRIC = 0
"""Seed of the classifier that fd-digits measures in: rewarded, it would measure itself."""


class Confidence(nn.Module):
    """Log-probability of the asked digit, at most 0, by a classifier of images (b, 3, 8, 8)."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Float[Tensor, "b 3 8 8"], conditions: Sequence[Raw]) -> Float[Tensor, " b"]:
        if None in conditions:
            raise UserError("digits-confidence: needs the class of every image: set data.prompts to class-labels")
        asked = onto(torch.tensor([int(label) for label in conditions if label is not None]), images.device)
        found: Tensor = self.classifier(images.mean(1, keepdim=True)).log_softmax(1)
        return found.gather(1, asked[:, None])[:, 0]


def confidence(classifier: int = 1) -> Reward:
    """classifier: training seed of a shipped one, but not the metric's own. Raises UserError for another."""
    allowed = [seed for seed in SEEDS if seed != METRIC]
    if classifier not in allowed:
        raise UserError(f"classifier: must be one of {allowed}, got {classifier}; fd-digits measures with {METRIC}")
    return Confidence(load(classifier))


def ink() -> Reward:
    """Mean brightness: 0 for an empty image, 1 for a white one; real digits have 0.31. Asks for bold strokes.

    It has no upper end within reach of digits, so alone, or with a large weight, it ends in white squares.
    """
    return lambda images, conditions: (images.flatten(1).mean(1) + 1) / 2
