"""One clock: every noise schedule maps a time t in [0, 1] to the pair (alpha, sigma).

    x_t = alpha(t) x + sigma(t) eps,    eps ~ N(0, I)                                     [DMD] Eq. 3

t = 0 is data and t = 1 is noise, for every family, and has no unit. x is a clean sample in model units
(pixels in [-1, 1], or scaled latents); sigma has the unit of x; alpha and eps have none. A fraction of the
clock means the same everywhere: the papers' "0.02 T" is t = 0.02 and SDXL's indices 999, 749, 499, 249 are
t = 1, 0.75, 0.5, 0.25, because index i of N sits at t = (i + 1) / N.

Coefficients are computed in float64 wherever the device has it; callers cast the product, not the factors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor


class NoiseSchedule(Protocol):
    """What the rest of the project knows of a forward process."""

    @property
    def prior_std(self) -> float:
        """Standard deviation of the pure-noise input x_1: EDM 80, DDPM 1, rectified flow 1."""

    def __call__(self, t: Float[Tensor, "*n"]) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
        """(alpha, sigma) at times t in [0, 1], in float64 where the device has it."""

    def time(self, ratio: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The time at which sigma / alpha equals ratio: the inverse of the clock."""

    def clock(self, steps: int) -> Float[Tensor, " steps"]:
        """The family's own sampling grid: `steps` falling times from 1; the jump to clean data follows."""

    def bin(self, index: Float[Tensor, "*n"], bins: int) -> Float[Tensor, "*n"]:
        """The time of noise level index (0 ... bins - 1, 0 the cleanest) of `bins` levels."""


def exact(t: Tensor) -> Tensor:
    """t in float64, or in float32 on a device that has no float64 (Apple's MPS)."""
    return t.float() if t.device.type == "mps" else t.double()


@dataclass(frozen=True)
class Karras:
    """EDM's variance-exploding schedule (Karras et al. 2022, Eq. 5): alpha = 1, sigma rises from min to max.

    The released DMD2 grid of 1,000 bins is t = i / 999, with index 0 the smallest sigma.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    @property
    def prior_std(self) -> float:
        return self.sigma_max

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        sigma = (low + exact(t) * (high - low)) ** self.rho
        return torch.ones_like(sigma), sigma

    def time(self, ratio: Tensor) -> Tensor:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (exact(ratio) ** (1 / self.rho) - low) / (high - low)

    def clock(self, steps: int) -> Tensor:
        """EDM Eq. 5: both ends included, so that the last step leaves sigma_min for clean data."""
        return torch.linspace(1, 0, steps, dtype=torch.float64) if steps > 1 else torch.ones(1).double()

    def bin(self, index: Tensor, bins: int) -> Tensor:
        """Both ends are levels: 0 is sigma_min and bins - 1 is sigma_max, as in the released grid."""
        return exact(index) / max(1, bins - 1)


class Discrete:
    """A variance-preserving table of N timesteps (DDPM, Stable Diffusion): t = (index + 1) / N.

    Times snap to the table, because the networks were trained on its integer timesteps alone.
    """

    prior_std = 1.0

    def __init__(self, alphas_cumprod: Sequence[float] | Tensor) -> None:
        self.alphas_cumprod = torch.as_tensor(alphas_cumprod, dtype=torch.float64)
        self._tables: dict[torch.device, Tensor] = {}

    @classmethod
    def scaled_linear(cls, start: float = 0.00085, end: float = 0.012, steps: int = 1000) -> Discrete:
        """Stable Diffusion's table: beta linear in its square root (Rombach et al. 2022, released config)."""
        beta = torch.linspace(math.sqrt(start), math.sqrt(end), steps, dtype=torch.float64) ** 2
        return cls(torch.cumprod(1 - beta, 0))

    @classmethod
    def linear(cls, start: float = 1e-4, end: float = 0.02, steps: int = 1000) -> Discrete:
        """DDPM's table: beta linear (Ho et al. 2020, Sec. 4)."""
        beta = torch.linspace(start, end, steps, dtype=torch.float64)
        return cls(torch.cumprod(1 - beta, 0))

    def index(self, t: Tensor) -> Tensor:
        """The integer timestep of time t: 1 -> 999, 0.75 -> 749, 0.5 -> 499, 0.25 -> 249 for N = 1000."""
        n = len(self.alphas_cumprod)
        return (exact(t) * n).round().long().sub(1).clamp(0, n - 1)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self._table(exact(t))[self.index(t)]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def _table(self, like: Tensor) -> Tensor:
        """The table where `like` is, copied there once: every copy would wait for the device."""
        if like.device == self.alphas_cumprod.device:
            return self.alphas_cumprod.to(like.dtype)
        if like.device not in self._tables:
            self._tables[like.device] = self.alphas_cumprod.to(like)
        return self._tables[like.device]

    def time(self, ratio: Tensor) -> Tensor:
        table = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt().to(exact(ratio))
        right = torch.searchsorted(table, exact(ratio).contiguous()).clamp(1, len(table) - 1)
        nearer = (exact(ratio) - table[right - 1] < table[right] - exact(ratio)).long()
        return (right - nearer + 1).to(table) / len(table)

    def clock(self, steps: int) -> Tensor:
        """Evenly spaced from the last timestep ("trailing", Lin et al. 2023): 999, 979, ... 19 for 50 steps."""
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]

    def bin(self, index: Tensor, bins: int) -> Tensor:
        return (exact(index) + 1) / bins


@dataclass(frozen=True)
class RectifiedFlow:
    """Straight paths (Liu et al. 2022): alpha = 1 - s, sigma = s, s = shift t / (1 + (shift - 1) t).

    shift > 1 spends the clock on noisier times, as SD3 and FLUX do (Esser et al. 2024, Eq. 23).
    """

    shift: float = 1.0

    prior_std = 1.0

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = exact(t)
        sigma = self.shift * t / (1 + (self.shift - 1) * t)
        return 1 - sigma, sigma

    def time(self, ratio: Tensor) -> Tensor:
        sigma = 1 - 1 / (1 + exact(ratio))                     # ratio may be infinite: alpha(1) = 0
        return sigma / (self.shift - (self.shift - 1) * sigma)

    def clock(self, steps: int) -> Tensor:
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]

    def bin(self, index: Tensor, bins: int) -> Tensor:
        return (exact(index) + 1) / bins


def scales(schedule: NoiseSchedule, t: Float[Tensor, " b"], like: Float[Tensor, b *d]) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) of shape (b, 1, ...), ready to multiply `like`; float64 where the device has it."""
    alpha, sigma = schedule(t.to(like.device))
    shape = (-1,) + (1,) * (like.ndim - 1)
    return alpha.view(shape), sigma.view(shape)


def diffuse(
    x: Float[Tensor, b *d], t: Float[Tensor, " b"], schedule: NoiseSchedule, eps: Float[Tensor, b *d]
) -> Float[Tensor, b *d]:
    """Forward diffusion x_t = alpha x + sigma eps, [DMD] Eq. 3; eps is unit normal. Returns x's dtype."""
    alpha, sigma = scales(schedule, t, x)
    return alpha.to(x.dtype) * x + sigma.to(x.dtype) * eps
