"""Denoising and GAN for the critic in one pass through its encoder: what the two terms cost, less the overlap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from dmd2cli.core.denoiser import JointDenoiser
from dmd2cli.core.heads import logits
from dmd2cli.core.noise import diffuse
from dmd2cli.core.objective import denoising, gan_critic
from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError
from dmd2cli.losses.denoising import Denoising
from dmd2cli.losses.gan import both
from dmd2cli.protocols import Nets, Sample, Teacher


@dataclass(frozen=True)
class JointCritic(Denoising):
    """Critic term: denoising + gan times the GAN loss, [DMD] Eq. 6 and [DMD2] Eq. 4.

    The fake sample's GAN features are those of its denoising pass, so both use one noise level; the release
    draws two. That saves an encoder pass per critic update (docs/benchmarks.md has its effect on quality).
    shared_noise: the real sample of a row has that noise and level too. Needs a critic with `joint()`
    (Preconditioned has it), and a head on its bottleneck.
    """

    gan: float = 1e-2
    shared_noise: bool = False

    reads_real: ClassVar = True

    def check(self, teacher: Teacher, nets: Nets) -> None:
        """Raise UserError if the head reads anything but the critic's bottleneck."""
        if nets.reads != "critic" or nets.depths is not None:
            raise UserError("reads the critic's bottleneck only: use denoising and gan_critic with critic.head")

    def __call__(self, s: Sample, nets: Nets, rng: Rng) -> Tensor:
        assert s.real is not None
        fake_net = cast(JointDenoiser, nets.fake)
        fake_t = nets.times(rng, "t", s.x, self.t_min, self.t_max)
        second = "" if self.shared_noise else "_real"
        t = torch.cat([fake_t, fake_t if self.shared_noise else nets.times(rng, "t_real", s.x)])
        eps = torch.cat([rng.normal("eps", s.x), rng.normal(f"eps{second}", s.x)])
        x_t = diffuse(torch.cat([s.x, s.real]), t, nets.schedule, eps)
        x_hat, features = fake_net.joint(x_t, t, both(s.cond, s.real_cond), len(s.x))
        fake, real = logits(nets.head, features).chunk(2)
        return denoising(x_hat, s.x, self.weight(nets, t[: len(s.x)], s.x)) + self.gan * gan_critic(fake, real)
