"""The GAN of DMD2 (Sec. 4.3): a head on the critic's bottleneck tells diffused fakes from diffused reals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dmd2cli.core.denoiser import Cond
from dmd2cli.core.noise import diffuse
from dmd2cli.core.objective import gan_critic, gan_generator
from dmd2cli.core.penalty import approximate_r1, r1
from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError
from dmd2cli.protocols import Nets, Sample

CLEANEST = 1000
"""Without noise the discriminator is told the cleanest of that many noise levels, as in the release."""


def both(first: Cond, second: Cond) -> Cond:
    """Two conditions as one batch."""
    return {name: torch.cat([first[name], second[name]]) for name in first}


@dataclass(frozen=True)
class Diffusion:
    """Noise levels of what the discriminator sees: times from diffusion_min_time to diffusion_max_time.

    diffusion_max_time 0: no noise is added at all ("diffusion GAN off").
    """

    shared_noise: bool = False
    diffusion_min_time: float = 0.0
    diffusion_max_time: float = 1.0

    def __post_init__(self) -> None:
        low, high = self.diffusion_min_time, self.diffusion_max_time
        if not (0 <= low < high <= 1 or low == high == 0):
            wanted = "0 <= diffusion_min_time < diffusion_max_time <= 1 is needed, or 0 for both"
            raise UserError(f"{wanted}; got {low}, {high}")

    def times(self, nets: Nets, rng: Rng, name: str, like: Tensor) -> Tensor:
        """A time (b,) for each row of like."""
        if self.diffusion_max_time > 0:
            return nets.times(rng, name, like, self.diffusion_min_time, self.diffusion_max_time)
        return nets.schedule.bin(like.new_zeros(len(like)), nets.bins or CLEANEST).to(like.dtype)

    def noised(self, x: Tensor, t: Tensor, nets: Nets, eps: Tensor) -> Tensor:
        """x at time t, or as it is without diffusion."""
        return diffuse(x, t, nets.schedule, eps) if self.diffusion_max_time > 0 else x


@dataclass(frozen=True)
class GanGenerator(Diffusion):
    """Generator term, [DMD2] Eq. 4: -log D of the student's samples.

    shared_noise: noise and times of distribution_matching's draw (with equal time ranges, the same x_t) instead of
    draws of its own, as released.
    """

    player: ClassVar = "generator"
    reads_real: ClassVar = False
    reads_logits: ClassVar = True

    def __call__(self, s: Sample, nets: Nets, rng: Rng) -> Tensor:
        draws = rng.sibling("distribution_matching") if self.shared_noise else rng
        t = self.times(nets, draws, "t", s.x)
        return gan_generator(nets.realism(self.noised(s.x, t, nets, draws.normal("eps", s.x)), t, s.cond))


@dataclass(frozen=True)
class GanCritic(Diffusion):
    """Critic term, [DMD2] Eq. 4: fakes and reals in one encoder pass, with an R1 penalty on the reals if wanted.

    Its gradient reaches the critic's encoder as well as the head, as released; with critic.head.reads: teacher, the
    head alone. shared_noise: one time and one noise for the real and the fake sample of a row; the release draws two.
    r1: weight gamma of gamma / 2 |dD/dx|^2 at the real samples. r1_std: null for the exact penalty, which needs a
    second backward pass, or the standard deviation of its finite difference, in units of x (APT: 0.01 to 0.1).
    """

    r1: float = 0.0
    r1_std: float | None = None

    player: ClassVar = "critic"
    reads_real: ClassVar = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.r1 < 0 or (self.r1_std is not None and self.r1_std <= 0):
            raise UserError(f"r1 must not be negative and r1_std above 0 or null, got {self.r1} and {self.r1_std}")

    def __call__(self, s: Sample, nets: Nets, rng: Rng) -> Tensor:
        assert s.real is not None
        t, eps = self.levels(s, nets, rng)
        real = s.real.detach().requires_grad_(self.r1 > 0 and self.r1_std is None)
        x_t = self.noised(torch.cat([s.x, real]), t, nets, eps)
        on_fake, on_real = nets.realism(x_t, t, both(s.cond, s.real_cond)).chunk(2)
        loss = gan_critic(on_fake, on_real)
        return loss + self.r1 / 2 * self.penalty(s, nets, rng, real, on_real, t, eps) if self.r1 else loss

    def levels(self, s: Sample, nets: Nets, rng: Rng) -> tuple[Tensor, Tensor]:
        """Times (2b,) and noise (2b, ...) of the fakes and the reals."""
        second = "fake" if self.shared_noise else "real"
        t = torch.cat([self.times(nets, rng, f"t_{name}", s.x) for name in ("fake", second)])
        return t, torch.cat([rng.normal(f"eps_{name}", s.x) for name in ("fake", second)])

    def penalty(self, s: Sample, nets: Nets, rng: Rng, x: Tensor, on_real: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """R1 at the reals x, exact or approximate."""
        if self.r1_std is None:
            return r1(on_real, x)
        b, near = len(x), x + self.r1_std * rng.normal("r1", x)
        on_near = nets.realism(self.noised(near, t[b:], nets, eps[b:]), t[b:], s.real_cond)
        return approximate_r1(on_real, on_near, self.r1_std)
