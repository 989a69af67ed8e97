"""Denoising: [DMD] Eq. 6, how the critic learns the score of the student's own samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dmd2cli.core.noise import diffuse, scales
from dmd2cli.core.objective import denoising
from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError
from dmd2cli.losses.weights import weighting
from dmd2cli.protocols import Nets, Sample


@dataclass(frozen=True)
class Denoising:
    """Critic term. weighting: a denoising weight by name, or null for the teacher's own training weight.

    t_min, t_max: times are uniform between them, over the whole clock as released (not the base model's training
    distribution).
    """

    weighting: str | None = None
    t_min: float = 0.0
    t_max: float = 1.0

    player: ClassVar = "critic"
    reads_real: ClassVar = False

    def __post_init__(self) -> None:
        if not 0 <= self.t_min < self.t_max <= 1:
            raise UserError(f"0 <= t_min < t_max <= 1 is needed, got {self.t_min}, {self.t_max}")
        if self.weighting is not None:
            weighting(self.weighting, "alpha", "sigma")

    def weight(self, nets: Nets, t: Tensor, x: Tensor) -> Tensor:
        """w(alpha, sigma), shaped to multiply x."""
        chosen = weighting(self.weighting, "alpha", "sigma") if self.weighting else nets.weighting
        return chosen(*scales(nets.schedule, t, x)).to(x.dtype)

    def __call__(self, s: Sample, nets: Nets, rng: Rng) -> Tensor:
        t = nets.times(rng, "t", s.x, self.t_min, self.t_max)
        x_hat = nets.fake(diffuse(s.x, t, nets.schedule, rng.normal("eps", s.x)), t, s.cond)
        return denoising(x_hat, s.x, self.weight(nets, t, s.x))
