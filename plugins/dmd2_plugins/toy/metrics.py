"""How much of a mixture a set of samples covers: modes, sample quality, mode weights, sliced distance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dmd2_plugins.toy.mixture import Mixture, mixture
from dmd2_plugins.toy.picture import SIDE, pixels, to_points, to_uint8
from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError
from dmd2cli.protocols import Raw

RADIUS = 4.0
"""A sample belongs to a mode within this many of its standard deviations."""
SHARE = 0.2
"""A mode is covered from this part of its expected number of samples on."""


@dataclass(frozen=True)
class Coverage:
    """covered: modes with enough samples. quality: share of samples that belong to a mode.

    kl: KL divergence in nats of the mode weights of the samples (each at its nearest mode) from the mixture's.
    """

    covered: int
    quality: float
    kl: float


def mode_counts(samples: Float[Tensor, "n 2"], found: Mixture) -> Coverage:
    """Which modes the samples reach."""
    lost = samples.nan_to_num(1e6)
    distance, nearest = torch.cdist(lost, found.means, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    inside = distance <= RADIUS * found.std
    counts = torch.bincount(nearest[inside], minlength=len(found.means))
    covered = counts >= SHARE * len(samples) * found.weights
    weights = torch.bincount(nearest, minlength=len(found.means)) / len(samples)
    kl = torch.special.xlogy(weights, weights / found.weights).sum()
    return Coverage(int(covered.sum()), inside.float().mean().item(), kl.item())


def sliced_wasserstein(a: Float[Tensor, "n 2"], b: Float[Tensor, "n 2"], slices: int = 64) -> float:
    """W2 between equally many points, root mean square over projections on evenly spaced directions."""
    angle = math.pi * torch.arange(slices) / slices
    directions = torch.stack([angle.cos(), angle.sin()])                      # (2, slices)
    gap = (a @ directions).sort(0).values - (b @ directions).sort(0).values
    return gap.square().mean().sqrt().item()


class Modes:
    """Metric `modes`: covered modes of a mixture, read from the dots of its pictures; more is better."""

    name = "modes"

    def __init__(self, layout: str = "grid25", std: float = 0.05) -> None:
        self.mixture, self.layout = mixture(layout, std), layout
        self.images: list[Tensor] = []

    @property
    def protocol(self) -> Mapping[str, Any]:
        return {
            "reference": f"{self.layout}, {len(self.mixture.means)} modes of std {self.mixture.std}",
            "direction": "higher is better",
            "covered": f"{SHARE} of a mode's expected samples within {RADIUS} std",
        }

    def update(self, images: UInt8[Tensor, "b 3 32 32"], conditions: Sequence[Raw]) -> None:
        if images.shape[1:] != (3, SIDE, SIDE):
            raise UserError(f"modes: images must be {SIDE} x {SIDE} with 3 channels, got {tuple(images.shape[1:])}")
        self.images.append(images.cpu())

    def compute(self) -> Mapping[str, float]:
        return self._measure(torch.cat(self.images))

    def real(self, n: int, seed: int) -> Mapping[str, float]:
        """n exact samples of the mixture, drawn and read back the same way."""
        x, _ = self.mixture.draw(n, Rng(seed, 0).generator("real", torch.device("cpu")))
        return self._measure(to_uint8(x, pixels(self.mixture)))

    def _measure(self, images: Tensor) -> dict[str, float]:
        found = mode_counts(to_points(images, pixels(self.mixture)), self.mixture)
        return {"value": found.covered, "quality": found.quality, "kl": found.kl}
