"""Distribution matching: [DMD] Eq. 7, the gradient of KL(student || teacher) over diffused samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dmd2cli.core.denoiser import guided
from dmd2cli.core.noise import diffuse, scales
from dmd2cli.core.objective import dm_gradient, with_gradient
from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError
from dmd2cli.losses.weights import weighting
from dmd2cli.protocols import Nets, Sample


@dataclass(frozen=True)
class DistributionMatching:
    """Generator term. guidance: classifier-free scale on the real score alone, 1 = off.

    t_min, t_max: where times are drawn, [DMD]'s T_min = 0.02 T and T_max = 0.98 T.
    weighting: released ([DMD] Alg. 2), paper (Eq. 8), dreamfusion or prolificdreamer.
    """

    guidance: float = 1.0
    t_min: float = 0.02
    t_max: float = 0.98
    weighting: str = "released"

    player: ClassVar = "generator"
    reads_real: ClassVar = False

    def __post_init__(self) -> None:
        if not 0 <= self.t_min < self.t_max <= 1:
            raise UserError(f"distribution_matching: 0 <= t_min < t_max <= 1 is needed, got {self.t_min}, {self.t_max}")
        weighting(self.weighting, "x", "x_real", "alpha", "sigma")

    def __call__(self, s: Sample, nets: Nets, rng: Rng) -> Tensor:
        weight = weighting(self.weighting, "x", "x_real", "alpha", "sigma")
        t = rng.uniform("t", s.x, self.t_min, self.t_max)
        alpha, sigma = scales(nets.schedule, t, s.x)
        with torch.no_grad():
            x_t = diffuse(s.x, t, nets.schedule, rng.normal("eps", s.x))                  # Eq. 3
            x_real = guided(nets.real, self.guidance, s.cond, s.null)(x_t, t)             # mu_real
            x_fake = nets.fake(x_t, t, s.cond)                                            # mu_fake, never guided
            grad = dm_gradient(x_t, x_real, x_fake, alpha, sigma, weight(s.x, x_real, alpha, sigma))
        return with_gradient(s.x, torch.nan_to_num(grad.to(s.x.dtype)))
