"""fid, fd and patch-fid: the Frechet distance of Gaussians fitted to features (Heusel et al. 2017, Eq. 6)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from dmd2cli.errors import UserError, suggest
from dmd2cli.features import Space, space
from dmd2cli.frechet import gaussian_distance
from dmd2cli.moments import Moments
from dmd2cli.protocols import Raw
from dmd2cli.reference import Reference
from dmd2cli.views import View, patch, square

LEAST = 2048
"""Samples: from fewer, the covariance of 2048 features has no full rank."""


@dataclass(frozen=True)
class Protocol:
    """Of FID: the feature space, what is done to every image of both sides first, how many there are of each."""

    extractor: str
    view: View | None = None
    samples: int | None = None
    reference: int | None = None

    def departures(self, samples: int, reference: int | None) -> list[str]:
        """In words, counts that are not the protocol's. A reference of unknown count is no departure."""
        counts = ((samples, self.samples, "samples"), (reference, self.reference, "reference images"))
        return [f"{n:,} {what}, not {own:,}" for n, own, what in counts if None not in (n, own) and n != own]


PROTOCOLS = {
    "edm": Protocol("inception-edm"),
    "clean": Protocol("inception-clean"),
    "coco-256": Protocol("inception-clean", square(256), 30_000, 40_504),
    "coco-512": Protocol("inception-clean", square(512), 10_000, 10_000),
}
"""coco-256: Stable Diffusion 1.5 against all of COCO's val2014. coco-512: SDXL against its prompts' own images."""
PATCHES = Protocol("inception-clean", patch(299))
"""Of patch FID; 299 is what Inception reads."""


class Frechet:
    """|mu - mu_ref|^2 + tr(S + S_ref - 2 (S S_ref)^1/2), mean and unbiased covariance, float64; lower is better.

    asked: what is done to images first, and how many there have to be.
    """

    def __init__(
        self, name: str, seen: Space, reference: str, allow_small: bool, asked: Protocol | None = None
    ) -> None:
        self.name, self.space, self.allow_small = name, seen, allow_small
        self.asked = asked or Protocol(seen.extractor.name)
        self.reference = Reference(reference, seen, view=self.asked.view)
        self.moments, self.sizes = self._empty(), Counter[str]()
        self.any_size = self.asked.view is not None

    @property
    def protocol(self) -> Mapping[str, Any]:
        return {
            "direction": "lower is better",
            "distance": "squared Frechet distance, unbiased covariance, float64",
            **({"before": view.words, "measured_at": dict(self.sizes)} if (view := self.asked.view) else {}),
            **self.space.extractor.protocol,
            **({"departs": departs} if (departs := self.departures(self.moments.n)) else {}),
            "reference": {**self.reference.about, "statistics": self.reference.kept},
        }

    def departures(self, n: int) -> list[str]:
        """How n samples and this reference are not what the protocol has."""
        return self.asked.departures(n, self.reference.about["images"])

    def check(self, n: int) -> None:
        """Raise UserError if n samples, or the images of the reference, are too few, or not the protocol's."""
        if not self.allow_small and (departs := self.departures(n)):
            raise UserError(f"{self.name}: {' and '.join(departs)}; --allow-small measures all the same, and says so")
        sets = {"samples": n, f"images in {self.reference.path}": self.reference.about["images"]}
        for what, count in sets.items():
            if count is not None and count < (2 if self.allow_small else LEAST):
                raise UserError(
                    f"{self.name}: {count:,} {what} are too few: their covariance is not of full rank below {LEAST:,}; "
                    "take more (-n), or --allow-small for a number that compares only with itself"
                )

    def update(self, images: UInt8[Tensor, "b 3 h w"], conditions: Sequence[Raw]) -> None:
        seen = images if self.asked.view is None else self._viewed(self.asked.view, images)
        self.reference.fits(seen, self.name)
        self.sizes[f"{seen.shape[3]} x {seen.shape[2]}"] += len(seen)
        self.moments.update(self.space(seen).vectors)

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

    def _viewed(self, view: View, images: Tensor) -> Tensor:
        if not self.sizes and view.leaves(images):
            size = f"{images.shape[3]} x {images.shape[2]}"
            print(f"note: {self.name}: samples of {size} have no patch of {view.least}; taken whole", file=sys.stderr)
        return view(images)

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
    extractor: str | None = None,
    weights: str | None = None,
    allow_small: bool = False,
    batch: int = 64,
    device: str = "auto",
) -> Frechet:
    """FID by a protocol: edm, as EDM's script computes it, clean, as clean-fid does, coco-256 or coco-512.

    extractor: another feature space than the protocol's; the rest of it stays, and the distance is called FD.
    allow_small: also do not refuse other counts than the protocol's. Options as of fd.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"fid: unknown protocol {protocol!r}{suggest(protocol, PROTOCOLS)}")
    asked = PROTOCOLS[protocol]
    found = space(extractor or asked.extractor, weights, device, batch)
    if found.extractor.name == asked.extractor:
        return Frechet(f"fid/{protocol}", found, reference, allow_small, asked)
    if extractor is None:
        raise UserError(
            f"{weights}: not the published weights, so the distance is no FID; to have it as an FD: "
            f"dmd2 eval fd --extractor {asked.extractor} --weights {weights}"
        )
    middle = f"{protocol}/" if asked.view is not None else ""
    return Frechet(f"fd/{middle}{found.extractor.name}", found, reference, allow_small, asked)


def patch_fid(
    reference: str,
    extractor: str = PATCHES.extractor,
    weights: str | None = None,
    allow_small: bool = False,
    batch: int = 64,
    device: str = "auto",
) -> Frechet:
    """Patch FID ([DMD2] Table 1): clean-fid of the 299 x 299 pixels in the middle of each image. Options as of fd.

    An image with a smaller side is taken whole, and the feature space resizes it, as in the release.
    """
    found = space(extractor, weights, device, batch)
    known = found.extractor.name == PATCHES.extractor
    name = "patch-fid/299" if known else f"patch-fd/299/{found.extractor.name}"
    return Frechet(name, found, reference, allow_small, PATCHES)
