"""inception-score: how sure a classifier is of each image, and how varied its answers are (Salimans et al. 2016)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dmd2_plugins.metrics.called import called
from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError
from dmd2cli.features import Space, space
from dmd2cli.protocols import Raw
from dmd2cli.reference import Reference


class InceptionScore:
    """exp E KL(p(y|x) || p(y)), the mean over splits; higher is better. Images are shuffled, then split.

    reference: images whose own score stands beside it; it is not needed. Other options as of fd.
    """

    def __init__(
        self,
        reference: str | None = None,
        extractor: str = "inception-edm",
        weights: str | None = None,
        splits: int = 10,
        batch: int = 64,
        device: str = "auto",
    ) -> None:
        if splits < 1:
            raise UserError(f"inception-score: splits must be at least 1, got {splits}")
        self.space, self.splits = space(extractor, weights, device, batch), splits
        self.name = called("inception-score", "class-score", self.space.extractor)
        self.reference = Reference(reference, self.space, images=True) if reference is not None else None
        self.logits: list[Tensor] = []

    @property
    def protocol(self) -> Mapping[str, Any]:
        return {
            "direction": "higher is better",
            "logits": "of the classifier behind the features, without bias",
            "splits": f"{self.splits}, after a shuffle by a fixed seed",
            **self.space.extractor.protocol,
            **({"reference": self.reference.about} if self.reference is not None else {}),
        }

    def check(self, n: int) -> None:
        """Raise UserError if a split would be empty."""
        if n < self.splits:
            raise UserError(f"{self.name}: {n} samples are too few for {self.splits} splits; take more (-n)")

    def update(self, images: UInt8[Tensor, "b 3 h w"], conditions: Sequence[Raw]) -> None:
        if self.reference is not None:
            self.reference.fits(images, self.name)
        self.logits.append(_logits(self.space, images))

    def compute(self) -> Mapping[str, float]:
        """"value" and the "std" over the splits."""
        return self._measure(torch.cat(self.logits))

    def real(self, n: int, seed: int) -> Mapping[str, float]:
        """n images of the reference, drawn with replacement; {} without one."""
        if self.reference is None:
            return {}
        return self._measure(torch.cat([_logits(self.space, images) for images in self.reference.bootstrap(n, seed)]))

    def _measure(self, logits: Tensor) -> dict[str, float]:
        self.check(len(logits))
        order = torch.randperm(len(logits), generator=Rng(0, 0).generator("shuffle", torch.device("cpu")))
        found = scores(logits[order], self.splits)
        return {"value": found.mean().item(), "std": found.std(correction=0).item()}


def scores(logits: Float[Tensor, "n k"], splits: int) -> Float[Tensor, " splits"]:
    """The score of each of so many consecutive parts, in float64."""
    edges = [i * len(logits) // splits for i in range(splits + 1)]
    parts = [logits[low:high].double().log_softmax(1) for low, high in pairwise(edges)]
    margins = [part.logsumexp(0) - math.log(len(part)) for part in parts]              # log p(y), finite where p is 0
    divergence = [(p.exp() * (p - margin)).sum(1).mean() for p, margin in zip(parts, margins, strict=True)]
    return torch.stack(divergence).exp()


def _logits(seen: Space, images: Tensor) -> Float[Tensor, "b k"]:
    found = seen(images).logits
    if found is None:
        raise UserError(f"inception-score: {seen.extractor.name} gives no logits; use extractor inception-edm")
    return found.cpu()
