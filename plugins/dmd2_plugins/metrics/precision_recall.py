"""precision-recall: shares of samples near real images, and of real images near samples (Kynkaanniemi et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError
from dmd2cli.features import space
from dmd2cli.frechet import precision_recall
from dmd2cli.protocols import Raw
from dmd2cli.reference import Reference


class PrecisionRecall:
    """k-NN precision, which is "value", and recall, Eq. 1 and 2 of the paper; higher is better.

    A vector lies in a manifold if it is no farther from one of its points than that point's k-th neighbour in it, the
    point itself not counted. The paper's convention, k = 3, takes as many samples as real images. reference: images,
    of which at most reference_images are used. Other options as of fd.
    """

    def __init__(
        self,
        reference: str,
        extractor: str = "inception-edm",
        weights: str | None = None,
        k: int = 3,
        reference_images: int = 50_000,
        batch: int = 64,
        device: str = "auto",
    ) -> None:
        if k < 1:
            raise UserError(f"precision-recall: k must be at least 1, got {k}")
        self.space = space(extractor, weights, device, batch)
        self.name = f"precision-recall/{self.space.extractor.name}"
        self.reference, self.k, self.most = Reference(reference, self.space, images=True), k, reference_images
        self.vectors: list[Tensor] = []

    @property
    def protocol(self) -> Mapping[str, Any]:
        return {
            "direction": "higher is better",
            "value": "precision",
            "neighbourhood": f"k = {self.k}, the point itself not counted, distance <= radius, float32",
            **self.space.extractor.protocol,
            "reference": self.reference.about,
        }

    def check(self, n: int) -> None:
        """Raise UserError if a sample would not have k neighbours."""
        sets = {"samples": n, f"images in {self.reference.path}": self.reference.about["images"]}
        for what, count in sets.items():
            if count is not None and count <= self.k:
                raise UserError(f"{self.name}: {count} {what} are too few; it needs more than k = {self.k}")

    def update(self, images: UInt8[Tensor, "b 3 h w"], conditions: Sequence[Raw]) -> None:
        self.reference.fits(images, self.name)
        self.vectors.append(self.space(images).vectors.cpu())

    def compute(self) -> Mapping[str, float]:
        return self._measure(torch.cat(self.vectors))

    def real(self, n: int, seed: int) -> Mapping[str, float]:
        """n of the reference's own vectors, drawn with replacement: its precision is 1."""
        real = self.reference.vectors(self.most)
        rows = torch.randint(len(real), (n,), generator=Rng(seed, 0).generator("bootstrap", torch.device("cpu")))
        return self._measure(real[rows])

    def _measure(self, fake: Tensor) -> dict[str, float]:
        self.check(len(fake))
        real = self.reference.vectors(self.most)
        found = precision_recall(fake.to(self.space.device), real.to(self.space.device), self.k)
        return {"value": found[0], "precision": found[0], "recall": found[1]}
