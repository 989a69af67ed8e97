"""EDM's stochastic sampler, Algorithm 2 (Karras et al. 2022): Heun with churn, for every schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dmd2cli.core.denoiser import Denoise
from dmd2cli.core.noise import NoiseSchedule, scales
from dmd2cli.core.random import Streams
from dmd2cli.samplers import ode


@dataclass(frozen=True)
class EdmSde:
    """steps as in heun; churn, noise, ratio_min and ratio_max are EDM's S_churn, S_noise, S_tmin and S_tmax.

    ratio_* bound sigma / alpha, which is EDM's sigma. EDM's ImageNet-64 settings: steps 256, churn 40,
    noise 1.003, ratio_min 0.05, ratio_max 50.
    """

    steps: int = 18
    churn: float = 40.0
    noise: float = 1.0
    ratio_min: float = 0.0
    ratio_max: float = math.inf

    def __post_init__(self) -> None:
        ode.check_steps("edm_sde", self.steps)

    @property
    def nfe(self) -> int:
        return 2 * self.steps - 1

    @property
    def deterministic(self) -> bool:
        return self.churn == 0

    def __call__(self, denoise: Denoise, schedule: NoiseSchedule, noise: Tensor, rng: Streams) -> Tensor:
        x_t = ode.start(schedule, noise)
        for i, (t, u) in enumerate(ode.times(schedule, self.steps, noise)):
            x_t, t = self._churned(x_t, t, schedule, rng.normal(f"churn/{i}", noise))
            x_t = ode.heun_step(denoise, schedule, x_t, t, u, noise.dtype)
        return x_t.to(noise.dtype)

    def _churned(self, x_t: Tensor, t: Tensor, schedule: NoiseSchedule, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Noise added and time moved back by the factor 1 + gamma in sigma / alpha (EDM Alg. 2, lines 4-6)."""
        alpha, sigma = scales(schedule, t, x_t)
        ratio = sigma / alpha
        if not self.ratio_min <= float(ratio.flatten()[0]) <= min(self.ratio_max, torch.finfo(ratio.dtype).max):
            return x_t, t
        gamma = min(self.churn / self.steps, math.sqrt(2) - 1)
        back = schedule.time(ratio.flatten() * (1 + gamma))
        alpha_back, sigma_back = scales(schedule, back, x_t)
        added = ((sigma_back / alpha_back) ** 2 - ratio**2).clamp(min=0).sqrt()
        return alpha_back * (x_t / alpha + added * self.noise * eps), back.to(t)
