"""Feature spaces: what an extractor is, and one in use, on a device, fed in batches and asked once for each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dmd2cli import registry
from dmd2cli.errors import UserError


@dataclass(frozen=True)
class Features:
    """What an Extractor makes of b images, on its own device."""

    vectors: Float[Tensor, "b d"]
    """float32."""
    logits: Float[Tensor, "b k"] | None = None
    """Of the classifier behind the features, without its bias; None where there is none."""


class Extractor(Protocol):
    """A feature space: images of any size in, resized as its protocol says, vectors out. An nn.Module has to()."""

    name: str
    """Says which space it is; distances in two spaces of one name can be compared."""
    dims: int
    """Length of a vector."""
    protocol: Mapping[str, Any]
    """Resizing, scaling, layer, weights and precision in words. JSON values."""
    fingerprint: str
    """Changes whenever the vectors of an image may: a version of the code, a hash of the weights."""

    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> Features:
        """A function of each image alone, whatever the batch. images: on the extractor's device."""

    def to(self, device: torch.device) -> Extractor:
        """Moves to a device; returns itself."""


class Space:
    """Images -> features, `batch` at a time. Several metrics that share a space share one pass over each batch."""

    def __init__(self, extractor: Extractor, device: torch.device, batch: int = 64) -> None:
        if batch < 1:
            raise UserError(f"batch: at least 1 image goes through the extractor at a time, got {batch}")
        self.extractor, self.device, self.batch = extractor.to(device), device, batch
        self._last: tuple[Tensor, int, Features] | None = None

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> Features:
        """Features on the device, float32. The same tensor again, unchanged, is answered from memory."""
        version = -1 if images.is_inference() else images._version
        if self._last is None or self._last[0] is not images or self._last[1] != version:
            self._last = (images, version, self._extracted(images))
        return self._last[2]

    def _extracted(self, images: Tensor) -> Features:
        parts = [self.extractor(part.to(self.device)) for part in torch.split(images, self.batch)]
        if len(parts) == 1:
            return parts[0]
        logits = [part.logits for part in parts if part.logits is not None]
        return Features(torch.cat([part.vectors for part in parts]), torch.cat(logits) if logits else None)


def space(name: str, weights: str | None = None, device: str = "auto", batch: int = 64) -> Space:
    """The space of a registered extractor; the same one for the same arguments. UserError if it cannot be had.

    weights: a file, for extractors that read one; None for where they look by themselves.
    """
    make = registry.load("extractors", name)
    if weights is not None and "weights" not in inspect.signature(make).parameters:
        raise UserError(f"extractor '{name}' reads no weights file; leave weights out")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return _space(make, weights, device, batch)
    except ModuleNotFoundError as err:
        raise registry.import_problem("extractors", name, err) from err


@lru_cache(maxsize=4)
def _space(make: Callable[..., Extractor], weights: str | None, device: str, batch: int) -> Space:
    return Space(make(weights) if weights is not None else make(), torch.device(device), batch)
