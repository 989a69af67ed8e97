"""DDIM: first-order steps of the probability-flow ODE (Song et al. 2021, Eq. 12, eta = 0)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dmd2cli.core.denoiser import Denoise
from dmd2cli.core.noise import NoiseSchedule, scales
from dmd2cli.core.random import Streams
from dmd2cli.samplers import ode


@dataclass(frozen=True)
class Ddim:
    """steps: network calls. Safe at alpha = 0, where a flow or zero-terminal-SNR model starts."""

    steps: int = 50

    def __post_init__(self) -> None:
        ode.check_steps("ddim", self.steps)

    @property
    def nfe(self) -> int:
        return self.steps

    @property
    def deterministic(self) -> bool:
        return True

    def __call__(self, denoise: Denoise, schedule: NoiseSchedule, noise: Tensor, rng: Streams) -> Tensor:
        x_t = ode.start(schedule, noise)
        for t, u in ode.times(schedule, self.steps, noise):
            x_hat = ode.call(denoise, x_t, t, noise.dtype)
            if u is None:
                return x_hat.to(noise.dtype)
            x_t = ode.jump(x_t, x_hat, scales(schedule, t, x_t), scales(schedule, u, x_t))
        raise AssertionError("a schedule's clock ends with the jump to clean data")
