"""Distribution matching: [DMD] Eq. 7, the gradient of KL(student || teacher) over diffused samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dmd2cli.core import divergence
from dmd2cli.core.denoiser import SCALE, Guidance, guided, without_scale
from dmd2cli.core.noise import diffuse, scales
from dmd2cli.core.objective import dm_gradient, with_gradient
from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError, suggest
from dmd2cli.losses.weights import weighting
from dmd2cli.protocols import Nets, Sample, Teacher


@dataclass(frozen=True)
class DistributionMatching:
    """Generator term. guidance: classifier-free scale on the real score alone, 1 = off.

    guidance_interval: the times at which it acts. guidance_rescale: 0 to 1 (core.denoiser.Guidance has both).
    t_min, t_max: where times are drawn, [DMD]'s T_min = 0.02 T and T_max = 0.98 T.
    weighting: released ([DMD] Alg. 2), paper (Eq. 8), dreamfusion or prolificdreamer.
    divergence: reverse_kl (the papers'), or another of core.divergence, which reads the GAN's discriminator.
    score: both, or real: the failing baseline of [DMD] Fig. 3 that climbs the teacher's density alone.
    """

    guidance: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_rescale: float = 0.0
    t_min: float = 0.02
    t_max: float = 0.98
    weighting: str = "released"
    divergence: str = "reverse_kl"
    score: Literal["both", "real"] = "both"

    player: ClassVar = "generator"
    reads_real: ClassVar = False

    def __post_init__(self) -> None:
        if not 0 <= self.t_min < self.t_max <= 1:
            raise UserError(f"0 <= t_min < t_max <= 1 is needed, got {self.t_min}, {self.t_max}")
        low, high = self.guidance_interval
        if not 0 <= low < high <= 1 or not 0 <= self.guidance_rescale <= 1:
            raise UserError("guidance_interval must rise within [0, 1], and guidance_rescale lie in [0, 1]")
        if self.divergence not in divergence.DIVERGENCES:
            raise UserError(f"unknown divergence {self.divergence!r}{suggest(self.divergence, divergence.DIVERGENCES)}")
        weighting(self.weighting, "x", "x_real", "alpha", "sigma")

    @property
    def reads_logits(self) -> bool:
        """Whether it needs a trained discriminator."""
        return self.divergence != "reverse_kl"

    def check(self, teacher: Teacher, nets: Nets) -> None:
        """Raise UserError for guidance on a teacher that has no condition."""
        if self.guidance != 1.0 and not teacher.encode([])[0]:
            raise UserError(f"guidance {self.guidance:g}: this teacher is unconditional; leave guidance out, or 1.0")

    def __call__(self, s: Sample, nets: Nets, rng: Rng) -> Tensor:
        t = nets.times(rng, "t", s.x, self.t_min, self.t_max)
        alpha, sigma = scales(nets.schedule, t, s.x)
        with torch.no_grad():
            x_t = diffuse(s.x, t, nets.schedule, rng.normal("eps", s.x))                  # Eq. 3
            x_real, x_fake = self.predictions(x_t, t, s, nets)                            # mu_real, mu_fake
            weight = weighting(self.weighting, "x", "x_real", "alpha", "sigma")(s.x, x_real, alpha, sigma)
            if self.reads_logits:
                h = divergence.weight(self.divergence, nets.realism(x_t, t, s.cond))      # f-distill, r^2 f''(r)
                weight = weight * h.view(alpha.shape)
            grad = dm_gradient(x_t, x_real, x_fake, alpha, sigma, weight)
        known = x_real.isfinite() & x_fake.isfinite()      # what the division makes is mended, a broken network is not
        return with_gradient(s.x, torch.where(known, torch.nan_to_num(grad), grad).to(s.x.dtype))

    def predictions(self, x_t: Tensor, t: Tensor, s: Sample, nets: Nets) -> tuple[Tensor, Tensor]:
        """What teacher and fake score take x_t for, which is diffused from s.x: the first guided, the second never.

        Where the real score acts alone, the second is the prediction whose score is zero.
        """
        guidance = Guidance(s.cond.get(SCALE, self.guidance), self.guidance_interval, self.guidance_rescale)
        x_real = guided(nets.real, guidance, without_scale(s.cond), s.null)(x_t, t)
        x_fake = nets.fake(x_t, t, s.cond) if self.score == "both" else x_t / scales(nets.schedule, t, x_t)[0]
        return x_real, x_fake
