"""fd-digits: Frechet distance in the features of a small digit classifier, with what it is blind to beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from dmd2_plugins.digits.captions import named
from dmd2_plugins.digits.classifier import SEEDS, embed, load
from dmd2_plugins.digits.data import images, to_uint8
from dmd2cli.core.random import Rng
from dmd2cli.diversity import diversity
from dmd2cli.errors import UserError
from dmd2cli.frechet import distance, precision_recall
from dmd2cli.protocols import Raw

NEIGHBOURS = 5
SIDE = 8
"""Pixels of a side, of the digits and of what their classifiers read."""


class FdDigits:
    """FD against all 1,797 digits; precision and recall (Kynkaanniemi et al. 2019), accuracy, memorisation.

    classifier: training seed of the feature space. Features are scaled by one scalar so that their mean
    variance over the real digits is 1. Smaller FD is better; it is biased upwards at small n, so compare
    only at equal n.

    Larger images are measured as 8 x 8 averages of their pixels, in grey. A condition is a label, or a caption that
    names one digit in words; class_accuracy, the share of images in which the classifier sees the digit that was asked
    for, is there if every condition asks for one.
    """

    name = "fd-digits"

    def __init__(self, classifier: int = 0) -> None:
        if classifier not in SEEDS:
            raise UserError(f"fd-digits: classifier must be one of {SEEDS}, got {classifier}")
        self.net, self.seed = load(classifier), classifier
        self.real_images, self.real_labels = to_uint8(images()[0]), images()[1]
        features, _ = embed(self.net, self.real_images)
        self.scale = float(features.var(dim=0).mean().rsqrt())
        self.real_features = features * self.scale
        self.images: list[Tensor] = []
        self.labels: list[int] = []

    @property
    def protocol(self) -> Mapping[str, Any]:
        real = len(self.real_images)
        return {
            "features": f"64-d classifier of seed {self.seed}",
            "reference": f"all {real} digits of scikit-learn",
            "resize": "none; of larger images the averages of equal blocks, grey",
            "direction": "lower is better",
            "precision_recall": f"k = {NEIGHBOURS}, the first {real} samples against {real}",
        }

    def update(self, images: UInt8[Tensor, "b 3 8 8"], conditions: Sequence[Raw]) -> None:
        height, width = images.shape[2:]
        if images.shape[1] != 3 or height != width or height % SIDE:
            raise UserError(f"fd-digits: images must be 8k x 8k with 3 channels, got {tuple(images.shape[1:])}")
        self.images.append(small(images.cpu()))
        self.labels += [asked(condition) for condition in conditions]

    def compute(self) -> Mapping[str, float]:
        found = self._measure(torch.cat(self.images))
        right = (found.pop("predicted") == torch.tensor(self.labels)).double().mean().item()
        return found | ({"class_accuracy": right} if -1 not in self.labels else {})

    def real(self, n: int, seed: int) -> Mapping[str, float]:
        """n bootstrapped real digits against all of them: the floor of an n-sample evaluation.

        A bootstrapped digit is its own nearest neighbour; its memorisation ratio is leave-one-out, 1 by definition.
        """
        source = Rng(seed, 0).generator("bootstrap", torch.device("cpu"))
        rows = torch.randint(len(self.real_images), (n,), generator=source)
        found = self._measure(self.real_images[rows])
        right = (found.pop("predicted") == self.real_labels[rows]).double().mean().item()
        spread = diversity(self.real_images, self.real_labels.tolist())
        return found | {"class_accuracy": right, "memorisation_ratio": 1.0, "diversity": spread or 0.0}

    def _measure(self, images: Tensor) -> dict[str, Any]:
        if len(images) <= NEIGHBOURS:
            raise UserError(f"fd-digits: {len(images)} images are too few; it needs more than {NEIGHBOURS} (-n)")
        features, predicted = embed(self.net, images)
        features = features * self.scale
        precision, recall = precision_recall(features[: len(self.real_features)], self.real_features, NEIGHBOURS)
        return {
            "value": distance(features, self.real_features),
            "precision": precision,
            "recall": recall,
            "memorisation_ratio": nearest(images, self.real_images) / leave_one_out(self.real_images),
            "predicted": predicted,
        }


def small(images: UInt8[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 8 8"]:
    """Grey images of the digits' size; those that are so already are left as they are."""
    grey = F.adaptive_avg_pool2d(images.float().mean(1, keepdim=True), SIDE)
    return grey.round().to(torch.uint8).expand(-1, 3, -1, -1)


def asked(condition: Raw) -> int:
    """The digit that a condition asks for, -1 if it asks for none or for several."""
    found = named(condition) if isinstance(condition, str) else condition
    return -1 if found is None else found


def nearest(images: UInt8[Tensor, "b 3 8 8"], real: UInt8[Tensor, "n 3 8 8"]) -> float:
    """Mean pixel distance of images to their nearest real one, in model units."""
    return (torch.cdist(_flat(images), _flat(real)).amin(1)).mean().item()


@cache
def leave_one_out(real: Tensor) -> float:
    """Mean pixel distance of a real image to the nearest other one."""
    distances = torch.cdist(_flat(real), _flat(real)).fill_diagonal_(float("inf"))
    return distances.amin(1).mean().item()


def _flat(images: Tensor) -> Float[Tensor, "b d"]:
    return images[:, 0].flatten(1).float() / 127.5
