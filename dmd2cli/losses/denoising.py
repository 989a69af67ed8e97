"""Denoising: [DMD] Eq. 6, how the critic learns the score of the student's own samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dmd2cli.core.noise import diffuse, scales
from dmd2cli.core.objective import denoising
from dmd2cli.core.random import Rng
from dmd2cli.losses.weights import weighting
from dmd2cli.protocols import Nets, Sample


@dataclass(frozen=True)
class Denoising:
    """Critic term. weighting: a denoising weight by name, or null for the teacher's own training weight.

    Times are uniform over the whole clock, as released (not the base model's training distribution).
    """

    weighting: str | None = None

    player: ClassVar = "critic"
    reads_real: ClassVar = False

    def __post_init__(self) -> None:
        if self.weighting is not None:
            weighting(self.weighting, "alpha", "sigma")

    def weight(self, nets: Nets, t: Tensor, x: Tensor) -> Tensor:
        """w(alpha, sigma), shaped to multiply x."""
        chosen = weighting(self.weighting, "alpha", "sigma") if self.weighting else nets.weighting
        return chosen(*scales(nets.schedule, t, x)).to(x.dtype)

    def __call__(self, s: Sample, nets: Nets, rng: Rng) -> Tensor:
        t = rng.uniform("t", s.x)
        x_hat = nets.fake(diffuse(s.x, t, nets.schedule, rng.normal("eps", s.x)), t, s.cond)
        return denoising(x_hat, s.x, self.weight(nets, t, s.x))
