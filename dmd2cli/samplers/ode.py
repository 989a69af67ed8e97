"""Steps of the probability-flow ODE in (alpha, sigma), shared by the samplers of this folder.

Along the ODE, x / alpha moves with slope eps_hat in sigma / alpha. Euler in that variable is DDIM and needs no
division by alpha; Heun averages two slopes, so a step that starts at alpha = 0 stays first order.
The state is float64 where the device has it, as in EDM; networks see the dtype of the noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from dmd2cli.core.denoiser import Denoise
from dmd2cli.core.noise import NoiseSchedule, exact, scales
from dmd2cli.errors import UserError

Scales = tuple[Tensor, Tensor]


def check_steps(sampler: str, steps: int) -> None:
    """Raise UserError unless steps is at least 1."""
    if steps < 1:
        raise UserError(f"{sampler}: steps must be at least 1, got {steps}")


def start(schedule: NoiseSchedule, noise: Tensor) -> Tensor:
    """x_1 = prior_std noise, in float64 where the device has it."""
    return schedule.prior_std * exact(noise)


def times(schedule: NoiseSchedule, steps: int, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Pairs (t, u) of times (b,), u the next one, None for the last jump to clean data."""
    grid = [like.new_full((len(like),), float(t)) for t in schedule.clock(steps)]
    yield from pairwise([*grid, None])


def call(denoise: Denoise, x_t: Tensor, t: Tensor, dtype: torch.dtype) -> Tensor:
    """x_hat in the state's precision from a network that computes in `dtype`."""
    return denoise(x_t.to(dtype), t).to(x_t.dtype)


def jump(x_t: Tensor, x_hat: Tensor, here: Scales, there: Scales) -> Tensor:
    """Euler in sigma / alpha: keeps the implied eps, moves the scales (DDIM, Song et al. 2021, Eq. 12, eta = 0)."""
    (a, s), (b, r) = here, there
    return r / s * x_t + (b - a * r / s) * x_hat


def heun_step(
    denoise: Denoise, schedule: NoiseSchedule, x_t: Tensor, t: Tensor, u: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """One second-order step from t to u (EDM Alg. 1, lines 4-8); u None ends at clean data in one call."""
    x_hat = call(denoise, x_t, t, dtype)
    if u is None:
        return x_hat
    (a, s), (b, r) = here, there = scales(schedule, t, x_t), scales(schedule, u, x_t)
    x_u = jump(x_t, x_hat, here, there)
    if not a.all():
        return x_u
    slope = (x_t - a * x_hat) / s + (x_u - b * call(denoise, x_u, u, dtype)) / r
    return b * (x_t / a + (r / b - s / a) * slope / 2)
