"""What the student is called on in training: the inputs of inference ([DMD2] Sec. 4.5), or those of an ablation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dmd2cli.core.denoiser import SCALE, Denoise
from dmd2cli.core.noise import NoiseSchedule, diffuse
from dmd2cli.core.random import Rng
from dmd2cli.data.base import Batch
from dmd2cli.samplers.few_step import few_step


@dataclass(frozen=True)
class Inputs:
    """The student's clock and where the inputs of its calls come from."""

    schedule: NoiseSchedule
    shape: tuple[int, ...]
    times: tuple[float, ...] = (1.0,)
    stochastic: bool = True
    """Fresh noise between calls, or the ODE's."""
    noised_real: bool = False
    """Later calls see noised real data in place of the student's own samples (the ablation of [DMD2] Table 4)."""
    first_real: bool = False
    """So does the first call, in place of pure noise."""
    guidance: tuple[float, float] | None = None
    """The range of scales of a student that is conditioned on the scale."""
    only: int | None = None
    """The one call to train; None for any."""

    def conditioned(self, batch: Batch, rng: Rng, device: torch.device) -> Batch:
        """The batch with a guidance scale for every sample, if the student takes one."""
        if self.guidance is None:
            return batch
        scale = {SCALE: rng.uniform("guidance", torch.empty(len(batch), 1, device=device), *self.guidance)}
        return replace(batch, cond={**batch.cond, **scale}, real_cond={**batch.real_cond, **scale})

    def call(self, rng: Rng) -> int:
        """Which of the student's calls a step trains, chosen at random, the same on every rank."""
        return rng.index("k", len(self.times)) if self.only is None else self.only

    def draw(self, generate: Denoise, batch: Batch, k: int, rng: Rng, device: torch.device) -> tuple[Tensor, Tensor]:
        """The input (x_t, t) of call k."""
        noise = rng.normal("noise", torch.empty(len(batch), *self.shape, device=device))
        if batch.pair is not None and batch.pair.where is not None:
            noise[batch.pair.where] = batch.pair.noise
        if self.noised_real if k else self.first_real:
            assert batch.x is not None
            t = noise.new_full((len(batch),), self.times[k])
            return diffuse(batch.x, t, self.schedule, noise), t
        return few_step(generate, self.schedule, noise, self.times, rng, stop=k, stochastic=self.stochastic)

    def first(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The input of the first call for given noise: what a pair's noise becomes."""
        return self.schedule.prior_std * noise, noise.new_full((len(noise),), self.times[0])
