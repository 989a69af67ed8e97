"""Heun's method on the probability-flow ODE: EDM Algorithm 1 (Karras et al. 2022), for every schedule."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dmd2cli.core.denoiser import Denoise
from dmd2cli.core.noise import NoiseSchedule
from dmd2cli.core.random import Streams
from dmd2cli.samplers import ode


@dataclass(frozen=True)
class Heun:
    """steps: second-order steps, 2 steps - 1 network calls; EDM's 18 steps are 35."""

    steps: int = 18

    def __post_init__(self) -> None:
        ode.check_steps("heun", self.steps)

    @property
    def nfe(self) -> int:
        return 2 * self.steps - 1

    @property
    def deterministic(self) -> bool:
        return True

    def __call__(self, denoise: Denoise, schedule: NoiseSchedule, noise: Tensor, rng: Streams) -> Tensor:
        x_t = ode.start(schedule, noise)
        for t, u in ode.times(schedule, self.steps, noise):
            x_t = ode.heun_step(denoise, schedule, x_t, t, u, noise.dtype)
        return x_t.to(noise.dtype)
