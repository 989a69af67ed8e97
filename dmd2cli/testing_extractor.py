"""Conformance check for feature extractors; dmd2cli.testing has the others."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import Tensor

from dmd2cli.features import Extractor
from dmd2cli.testing_teacher import say


@torch.no_grad()
def check_extractor(make: Callable[[], Extractor], images: Tensor) -> None:
    """Vectors are finite, a function of each image alone, and the same from every instance; all facts are JSON.

    images: uint8 (b, 3, h, w), b at least 3, of a size that the extractor takes.
    """
    extractor = make().to(torch.device("cpu"))
    found = extractor(images)
    say(found.vectors.dtype == torch.float32 and found.vectors.isfinite().all(), "vectors must be finite float32")
    shape = (len(images), extractor.dims)
    say(tuple(found.vectors.shape) == shape, f"vectors must have the shape {shape}, not {tuple(found.vectors.shape)}")
    alone = torch.cat([extractor(image[None]).vectors for image in images])
    near = (alone - found.vectors).norm() <= 1e-4 * found.vectors.norm() + 1e-6
    say(near, "the vector of an image must not depend on the rest of its batch: is it in evaluation mode?")
    again = make()
    say(again(images).vectors.allclose(found.vectors, rtol=1e-4, atol=1e-6), "two instances give other vectors")
    say(again.fingerprint == extractor.fingerprint, "fingerprint must be a function of code and weights")
    apart = (found.vectors != found.vectors[:1]).any() or images.eq(images[:1]).all()
    say(apart, "images that differ have the same vector")
    for fact in ("resize", "scale", "weights", "precision"):
        say(fact in extractor.protocol, f"protocol must say its {fact!r}")
    json.dumps([extractor.name, extractor.fingerprint, dict(extractor.protocol)])
