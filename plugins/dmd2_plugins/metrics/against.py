"""What metrics between two sets of feature vectors share: the vectors of the samples and of the reference's images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dmd2cli.core.random import Rng
from dmd2cli.features import space
from dmd2cli.protocols import Raw
from dmd2cli.reference import Reference


class AgainstImages(ABC):
    """Keeps the vectors of all samples. reference: images, of which at most `most` are used."""

    name: str

    def __init__(
        self, reference: str, extractor: str, weights: str | None, most: int, batch: int, device: str
    ) -> None:
        self.space = space(extractor, weights, device, batch)
        self.reference, self.most = Reference(reference, self.space, images=True), most
        self.vectors: list[Tensor] = []

    def update(self, images: UInt8[Tensor, "b 3 h w"], conditions: Sequence[Raw]) -> None:
        self.reference.fits(images, self.name)
        self.vectors.append(self.space(images).vectors.cpu())

    def compute(self) -> Mapping[str, float]:
        return self.between(torch.cat(self.vectors), self.reference.vectors(self.most))

    def real(self, n: int, seed: int) -> Mapping[str, float]:
        """n of the reference's own vectors, drawn with replacement."""
        real = self.reference.vectors(self.most)
        rows = torch.randint(len(real), (n,), generator=Rng(seed, 0).generator("bootstrap", torch.device("cpu")))
        return self.between(real[rows], real)

    @abstractmethod
    def between(self, fake: Float[Tensor, "n d"], real: Float[Tensor, "m d"]) -> Mapping[str, float]:
        """The numbers of two sets of vectors. Raises UserError if one is too small."""
