"""check_extractor: what metrics take for granted of a feature space."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dmd2cli.features import Extractor
from dmd2cli.testing.said import every, say


def check_extractor(make: Callable[[], Extractor], images: Tensor) -> None:
    """Vectors are finite, a function of each image alone, and the same from every instance; all facts are JSON.

    images: uint8 (b, 3, h, w), b at least 3, of a size that the extractor takes.
    """
    every(CHECKS, Looking(make, images))


@dataclass(frozen=True)
class Looking:
    """How an extractor is made, and images for it."""

    make: Callable[[], Extractor]
    images: Tensor

    @cached_property
    def extractor(self) -> Extractor:
        return self.make().to(torch.device("cpu"))

    @cached_property
    def vectors(self) -> Tensor:
        with torch.no_grad():
            return self.extractor(self.images).vectors


def vectors(looking: Looking) -> None:
    """Vectors are finite float32 (b, dims), and differ between images that differ."""
    found, images = looking.vectors, looking.images
    say(found.dtype == torch.float32 and found.isfinite().all(), "vectors must be finite float32")
    shape = (len(images), looking.extractor.dims)
    say(tuple(found.shape) == shape, f"vectors must have the shape {shape}, not {tuple(found.shape)}")
    apart = (found != found[:1]).any() or images.eq(images[:1]).all()
    say(apart, "images that differ have the same vector")


@torch.no_grad()
def rows(looking: Looking) -> None:
    """The vector of an image does not depend on the rest of its batch."""
    alone = torch.cat([looking.extractor(image[None]).vectors for image in looking.images])
    near = (alone - looking.vectors).norm() <= 1e-4 * looking.vectors.norm() + 1e-6
    say(near, "the vector of an image must not depend on the rest of its batch: is it in evaluation mode?")


@torch.no_grad()
def same_again(looking: Looking) -> None:
    """Another instance gives the same vectors and the same fingerprint."""
    again = looking.make()
    near = again(looking.images).vectors.allclose(looking.vectors, rtol=1e-4, atol=1e-6)
    say(near, "two instances give other vectors")
    say(again.fingerprint == looking.extractor.fingerprint, "fingerprint must be a function of code and weights")


def protocol(looking: Looking) -> None:
    """Its protocol says resize, scale, weights and precision, in JSON."""
    extractor = looking.extractor
    for fact in ("resize", "scale", "weights", "precision"):
        say(fact in extractor.protocol, f"protocol must say its {fact!r}")
    json.dumps([extractor.name, extractor.fingerprint, dict(extractor.protocol)])


CHECKS = (vectors, rows, same_again, protocol)
