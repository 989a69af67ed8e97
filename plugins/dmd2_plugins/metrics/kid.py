"""kid: the unbiased squared maximum mean discrepancy with a cubic kernel (Binkowski et al. 2018, Sec. 4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dmd2_plugins.metrics.against import AgainstImages
from dmd2_plugins.metrics.called import called
from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError

Rows = tuple[Int64[Tensor, " m"], Int64[Tensor, " m"]]


class Kid(AgainstImages):
    """Mean over random subsets of both sets; lower is better, and slightly below 0 is as good as 0.

    subsets of subset_size images each, or of all where a set has fewer, drawn without replacement by seed. reference:
    images, of which at most reference_images are used. Other options as of fd.
    """

    def __init__(
        self,
        reference: str,
        extractor: str = "inception-edm",
        weights: str | None = None,
        subsets: int = 100,
        subset_size: int = 1000,
        seed: int = 0,
        reference_images: int = 50_000,
        batch: int = 64,
        device: str = "auto",
    ) -> None:
        if subsets < 1 or subset_size < 2:
            raise UserError(f"kid: needs at least 1 subset of 2 images, got {subsets} of {subset_size}")
        super().__init__(reference, extractor, weights, reference_images, batch, device)
        self.name = called("kid", "kd", self.space.extractor)
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed

    @property
    def protocol(self) -> Mapping[str, Any]:
        return {
            "direction": "lower is better",
            "kernel": "(x . y / d + 1)^3, d features, float64",
            "estimator": f"unbiased, mean over {self.subsets} subsets of {self.subset_size:,}, seed {self.seed}",
            **self.space.extractor.protocol,
            "reference": self.reference.about,
        }

    def check(self, n: int) -> None:
        """Raise UserError for less than two samples."""
        if n < 2:
            raise UserError(f"{self.name}: {n} sample is too few; it needs 2 (-n)")

    def between(self, fake: Float[Tensor, "n d"], real: Float[Tensor, "m d"]) -> Mapping[str, float]:
        """"value", the "std" over subsets, and the "subset_size" that was used."""
        self.check(len(fake))
        device = torch.device("cpu") if self.space.device.type == "mps" else self.space.device
        size = min(self.subset_size, len(fake), len(real))
        found = discrepancies(fake.to(device), real.to(device), self._rows(len(fake), len(real), size))
        return {"value": found.mean().item(), "std": found.std(correction=0).item(), "subset_size": size}

    def _rows(self, fake: int, real: int, size: int) -> Iterator[Rows]:
        for i in range(1 if size == fake == real else self.subsets):                # all of both: one subset is all
            source = Rng(self.seed, i).generator("subset", torch.device("cpu"))
            yield torch.randperm(fake, generator=source)[:size], torch.randperm(real, generator=source)[:size]


def discrepancies(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], rows: Iterable[Rows]) -> Float[Tensor, " s"]:
    """The discrepancy of some rows of x and as many of y, for each pair of subsets."""
    return torch.stack([discrepancy(x[i.to(x.device)], y[j.to(y.device)]) for i, j in rows])


def discrepancy(x: Float[Tensor, "m d"], y: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """The unbiased estimate of MMD^2 from m vectors of each: kernels of a vector with itself do not count."""
    x, y, m = x.double(), y.double(), len(x)
    within = sum(k.sum() - k.diagonal().sum() for k in (kernel(x, x), kernel(y, y)))
    return within / (m * (m - 1)) - 2 * kernel(x, y).mean()


def kernel(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """(x . y / d + 1)^3."""
    return (x @ y.T / x.shape[1] + 1) ** 3
