"""fid and fd: the Frechet distance of Gaussians fitted to features (Heusel et al. 2017, Eq. 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from dmd2cli.errors import UserError, suggest
from dmd2cli.features import Space, space
from dmd2cli.frechet import gaussian_distance
from dmd2cli.moments import Moments
from dmd2cli.protocols import Raw
from dmd2cli.reference import Reference

LEAST = 2048
"""Samples: from fewer, the covariance of 2048 features has no full rank."""
PROTOCOLS = {"edm": "inception-edm", "clean": "inception-clean"}
"""Protocol of FID -> its feature space."""


class Frechet:
    """|mu - mu_ref|^2 + tr(S + S_ref - 2 (S S_ref)^1/2), mean and unbiased covariance, float64; lower is better."""

    def __init__(self, name: str, seen: Space, reference: str, allow_small: bool) -> None:
        self.name, self.space, self.allow_small = name, seen, allow_small
        self.reference = Reference(reference, seen)
        self.moments = self._empty()

    @property
    def protocol(self) -> Mapping[str, Any]:
        return {
            "direction": "lower is better",
            "distance": "squared Frechet distance, unbiased covariance, float64",
            **self.space.extractor.protocol,
            "reference": {**self.reference.about, "statistics": self.reference.kept},
        }

    def check(self, n: int) -> None:
        """Raise UserError if n samples, or the images of the reference, are too few."""
        sets = {"samples": n, f"images in {self.reference.path}": self.reference.about["images"]}
        for what, count in sets.items():
            if count is not None and count < (2 if self.allow_small else LEAST):
                raise UserError(
                    f"{self.name}: {count:,} {what} are too few: their covariance is not of full rank below {LEAST:,}; "
                    "take more (-n), or --allow-small for a number that compares only with itself"
                )

    def update(self, images: UInt8[Tensor, "b 3 h w"], conditions: Sequence[Raw]) -> None:
        self.reference.fits(images, self.name)
        self.moments.update(self.space(images).vectors)

    def compute(self) -> Mapping[str, float]:
        self.check(self.moments.n)
        return {"value": self._distance(self.moments)}

    def real(self, n: int, seed: int) -> Mapping[str, float]:
        """n images of the reference, drawn with replacement, against all of it; {} if it has mu and sigma alone."""
        if self.reference.pictures is None:
            return {}
        found = self._empty()
        for images in self.reference.bootstrap(n, seed):
            found.update(self.space(images).vectors)
        return {"value": self._distance(found)}

    def _empty(self) -> Moments:
        return Moments(self.space.extractor.dims, self.space.device)

    def _distance(self, moments: Moments) -> float:
        real = self.reference.statistics()
        return gaussian_distance(*moments.numpy(), real.mu, real.sigma)


def fd(
    extractor: str,
    reference: str,
    weights: str | None = None,
    allow_small: bool = False,
    batch: int = 64,
    device: str = "auto",
) -> Frechet:
    """The distance in any registered feature space, called FD and by the space's name.

    reference: images, or an .npz with mu and sigma. weights: the extractor's file. batch: images through the extractor
    at once. allow_small: do not refuse fewer than 2,048 samples.
    """
    found = space(extractor, weights, device, batch)
    return Frechet(f"fd/{found.extractor.name}", found, reference, allow_small)


def fid(
    reference: str,
    protocol: str = "edm",
    weights: str | None = None,
    allow_small: bool = False,
    batch: int = 64,
    device: str = "auto",
) -> Frechet:
    """FID by one of two protocols: edm, as EDM's script computes it, or clean, as clean-fid does. Options as of fd."""
    if protocol not in PROTOCOLS:
        raise UserError(f"fid: unknown protocol {protocol!r}{suggest(protocol, PROTOCOLS)}")
    found = space(PROTOCOLS[protocol], weights, device, batch)
    if found.extractor.name != PROTOCOLS[protocol]:
        raise UserError(
            f"{weights}: not the published weights, so the distance is no FID; to have it as an FD: "
            f"dmd2 eval fd --extractor {PROTOCOLS[protocol]} --weights {weights}"
        )
    return Frechet(f"fid/{protocol}", found, reference, allow_small)
