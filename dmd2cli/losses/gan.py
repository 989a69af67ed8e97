"""The GAN of DMD2 (Sec. 4.3): a head on the critic's bottleneck tells diffused fakes from diffused reals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dmd2cli.core.denoiser import Cond
from dmd2cli.core.heads import logits
from dmd2cli.core.noise import diffuse
from dmd2cli.core.objective import gan_critic, gan_generator
from dmd2cli.core.random import Rng
from dmd2cli.protocols import Nets, Sample


def both(first: Cond, second: Cond) -> Cond:
    """Two conditions as one batch."""
    return {name: torch.cat([first[name], second[name]]) for name in first}


@dataclass(frozen=True)
class GanGenerator:
    """Generator term, [DMD2] Eq. 4: -log D of the student's samples, at a noise level of their own."""

    player: ClassVar = "generator"
    reads_real: ClassVar = False

    def __call__(self, s: Sample, nets: Nets, rng: Rng) -> Tensor:
        t = rng.uniform("t", s.x)
        x_t = diffuse(s.x, t, nets.schedule, rng.normal("eps", s.x))
        return gan_generator(logits(nets.head, nets.fake.features(x_t, t, s.cond)))


@dataclass(frozen=True)
class GanCritic:
    """Critic term, [DMD2] Eq. 4: fakes and reals, each at its own noise level, in one encoder pass.

    Its gradient reaches the critic's encoder as well as the head, as released.
    """

    player: ClassVar = "critic"
    reads_real: ClassVar = True

    def __call__(self, s: Sample, nets: Nets, rng: Rng) -> Tensor:
        assert s.real is not None
        t = torch.cat([rng.uniform("t_fake", s.x), rng.uniform("t_real", s.x)])
        eps = torch.cat([rng.normal("eps_fake", s.x), rng.normal("eps_real", s.x)])
        x_t = diffuse(torch.cat([s.x, s.real]), t, nets.schedule, eps)
        fake, real = logits(nets.head, nets.fake.features(x_t, t, both(s.cond, s.real_cond))).chunk(2)
        return gan_critic(fake, real)
