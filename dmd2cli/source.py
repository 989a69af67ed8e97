"""The one sampling path: previews, sample, eval and export all draw through a Source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from dmd2cli.core.denoiser import SCALE, Denoiser, bind, guided
from dmd2cli.core.random import Numbered
from dmd2cli.protocols import Raw, Sampler, Teacher


@dataclass(frozen=True)
class Source:
    """Something that draws images: a network, the sampler it is called through, and the codec around both."""

    teacher: Teacher
    """For its schedule, shape, encode and decode."""
    network: nn.Module
    """A Denoiser: the student's, or the teacher's own."""
    sampler: Sampler
    guidance: float = 1.0
    """Scale of classifier-free guidance, or of what a network that reads the scale is told."""
    reads_scale: bool = False
    """Whether the network takes the scale as a condition and so needs one pass."""

    @torch.no_grad()
    def draw(
        self, raw: Sequence[Raw], seed: int, first: int = 0, batch: int = 250
    ) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
        """Images number first, first + 1, ... for some conditions, in batches.

        Image i is a function of (seed, i) and its condition, whatever the batch or the count.
        """
        for start in range(0, len(raw), batch):
            chunk = raw[start : start + batch]
            yield self.teacher.decode(self.latents(chunk, seed, range(first + start, first + start + len(chunk)))).cpu()

    @torch.no_grad()
    def latents(self, raw: Sequence[Raw], seed: int, numbers: Sequence[int]) -> Tensor:
        """The clean samples x behind some numbered images, in model units."""
        noise = self.noise(seed, numbers)
        cond, null = ({k: v.to(noise.device) for k, v in c.items()} for c in self.teacher.encode(raw))
        network = cast(Denoiser, self.network)
        if self.reads_scale:
            denoise = bind(network, {**cond, SCALE: noise.new_full((len(raw),), self.guidance)})
        else:
            denoise = guided(network, self.guidance, cond, null)
        return self.sampler(denoise, self.teacher.schedule, noise, Numbered(seed, numbers))

    def noise(self, seed: int, numbers: Sequence[int]) -> Tensor:
        """The unit normal noise that some numbered images are made from, on the network's device."""
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        return Numbered(seed, numbers).normal("noise", torch.empty(len(numbers), *self.teacher.shape, device=device))

    def images(self, raw: Sequence[Raw], seed: int, first: int = 0) -> UInt8[Tensor, "b 3 h w"]:
        """All images of draw() at once."""
        return torch.cat(list(self.draw(raw, seed, first)))

    def conditions(self, n: int) -> list[Raw]:
        """n conditions that go through all of the teacher's in turn; Nones for an unconditional one."""
        every = list(self.teacher.conditions) or [None]
        return [every[i % len(every)] for i in range(n)]
