"""Diversity: how far apart images of the same condition are, the number that mode-seeking distillation loses.

Precision says whether samples are good and recall whether they cover real data, both in the features of one network;
this one needs neither a network nor real data. It is a distance of pixels and knows nothing of content: a sampler
that adds noise scores higher, and so does one that draws the wrong class. Read it beside precision, and as a ratio to
the teacher's own samples for the same conditions: well below 1 is lost variety, well above 1 is noise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from dmd2cli.protocols import Raw

MOST = 64
"""Images per condition that are compared, the first ones: 2,016 pairs."""
BYTES = 2**28
"""Images kept in all, 256 MiB: 21,845 of 64 x 64. Later ones do not count."""


class Diversity:
    """Accumulates images, then answers; keeps the first MOST images of each condition, and BYTES of them in all."""

    def __init__(self) -> None:
        self.kept = defaultdict[Raw, list[Tensor]](list)
        self.bytes = 0

    def update(self, images: UInt8[Tensor, "b 3 h w"], conditions: Sequence[Raw]) -> None:
        """Take a batch of images and the conditions they were drawn for, None where there is none."""
        for image, condition in zip(images, conditions, strict=True):
            if len(self.kept[condition]) < MOST and self.bytes + image.nbytes <= BYTES:
                self.kept[condition].append(image.clone())
                self.bytes += image.nbytes

    def compute(self) -> float | None:
        """Mean over conditions of the mean distance between two different images of one, in [0, 1].

        The distance is the root of the mean squared difference over pixels and channels, black being 0 and white 1.
        Images without a condition are one group; conditions with a single image do not count, and images of two
        sizes are not compared. None if no two images share a condition.
        """
        groups = (group for images in self.kept.values() for group in of_one_size(images))
        found = [apart(torch.stack(images)) for images in groups if len(images) > 1]
        return sum(found) / len(found) if found else None


def diversity(images: UInt8[Tensor, "n 3 h w"], conditions: Sequence[Raw]) -> float | None:
    """Of some images at once; the number is that of Diversity.compute()."""
    found = Diversity()
    found.update(images, conditions)
    return found.compute()


def of_one_size(images: Sequence[Tensor]) -> list[list[Tensor]]:
    """The same images, those of one size together."""
    return [[image for image in images if image.shape == size] for size in dict.fromkeys(i.shape for i in images)]


def apart(images: UInt8[Tensor, "m 3 h w"]) -> float:
    """Mean root-mean-square difference over the pairs of two or more images, in [0, 1]."""
    flat = images.flatten(1).float() / 255
    return torch.pdist(flat).mean().item() / flat.shape[1] ** 0.5
