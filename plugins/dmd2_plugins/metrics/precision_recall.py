"""precision-recall: shares of samples near real images, and of real images near samples (Kynkaanniemi et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from dmd2_plugins.metrics.against import AgainstImages
from dmd2cli.errors import UserError
from dmd2cli.frechet import precision_recall


class PrecisionRecall(AgainstImages):
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
        super().__init__(reference, extractor, weights, reference_images, batch, device)
        self.name, self.k = f"precision-recall/{self.space.extractor.name}", k

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

    def between(self, fake: Float[Tensor, "n d"], real: Float[Tensor, "m d"]) -> Mapping[str, float]:
        """Both shares; the precision of vectors drawn from the real ones is 1."""
        self.check(len(fake))
        found = precision_recall(fake.to(self.space.device), real.to(self.space.device), self.k)
        return {"value": found[0], "precision": found[0], "recall": found[1]}
