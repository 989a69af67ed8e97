"""The one sampling path: previews, sample, eval and export all draw through a Source."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dmd2cli.adapters import View
from dmd2cli.core.denoiser import SCALE, Cond, Denoiser, bind, guided
from dmd2cli.core.noise import diffuse
from dmd2cli.core.random import Numbered
from dmd2cli.data.pair_files import fingerprint, sampler_facts
from dmd2cli.protocols import Raw, Sampler, Teacher

MOST, PIXELS = 250, 2**22
"""Images at once, and pixels of all of them: four of 1024 x 1024."""


@dataclass(frozen=True)
class Start:
    """What is drawn over, where that is not pure noise: an image as x (1, *d), diffused to a time."""

    x: Float[Tensor, 1 *d]
    t: float


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
    start: Start | None = None

    @property
    def factor(self) -> int:
        """Pixels of a side for one value of x."""
        return getattr(self.teacher.decode, "factor", 1)

    @property
    def batch(self) -> int:
        """Images drawn at once unless another number is asked: as many as have PIXELS together, at most MOST."""
        return max(1, min(MOST, PIXELS // (math.prod(self.teacher.shape[1:]) * self.factor**2)))

    @property
    def reads(self) -> Teacher:
        """Whose conditions it reads."""
        return self.teacher

    @property
    def size(self) -> tuple[int, ...]:
        """(height, width) of its images in pixels; () of samples that are no images."""
        return tuple(side * self.factor for side in self.teacher.shape[1:])

    @property
    def nfe(self) -> int:
        """Calls of the network for each image."""
        return self.sampler.nfe

    @property
    def cost(self) -> dict[str, Any]:
        """What a sample takes."""
        return {"nfe": self.nfe, "guidance": self.guidance}

    @property
    def how(self) -> dict[str, Any]:
        """What its images are functions of besides weights, seed and condition. JSON values."""
        return {"sampler": sampler_facts(type(self.sampler).__name__, self.sampler), "guidance": self.guidance}

    def identity(self) -> str:
        """Which network it is, in 16 digits: of an adapter, the base and the adapter."""
        if not self.network.state_dict():
            weights: Any = dict(self.teacher.details)
        elif isinstance(self.network, View):
            weights = [fingerprint(self.network), fingerprint(self.network.lora)]
        else:
            weights = fingerprint(self.network)
        return hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest()[:16]

    @torch.no_grad()
    def draw(
        self, raw: Sequence[Raw], seed: int | Sequence[int], first: int = 0, batch: int | None = None
    ) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
        """Images number first, first + 1, ... for some conditions, in batches.

        seed: of all; or one for each image, and all have the number `first`. Image i is a function of (seed, i) and its
        condition, whatever the batch or the count.
        """
        size = batch or self.batch
        for begin in range(0, len(raw), size):
            chunk = raw[begin : begin + size]
            seeds = seed if isinstance(seed, int) else seed[begin : begin + size]
            numbers = [first + begin + k if isinstance(seed, int) else first for k in range(len(chunk))]
            yield self.numbered(chunk, seeds, numbers)

    @torch.no_grad()
    def numbered(
        self, raw: Sequence[Raw], seed: int | Sequence[int], numbers: Sequence[int]
    ) -> UInt8[Tensor, "b 3 h w"]:
        """One batch of images with any numbers."""
        x = self.latents(raw, seed, numbers)
        if not x.isfinite().all():
            tell(x, numbers)
        return self.teacher.decode(x).cpu()

    @torch.no_grad()
    def latents(self, raw: Sequence[Raw], seed: int | Sequence[int], numbers: Sequence[int]) -> Tensor:
        """The clean samples x behind some numbered images, in model units."""
        noise = self.noise(seed, numbers)
        cond, null = ({k: v.to(noise.device) for k, v in c.items()} for c in self.encode(raw))
        network = cast(Denoiser, self.network)
        if self.reads_scale:
            denoise = bind(network, {**cond, SCALE: noise.new_full((len(raw),), self.guidance)})
        else:
            denoise = guided(network, self.guidance, cond, null)
        return self.sampler(denoise, self.teacher.schedule, self.begin(noise), Numbered(seed, numbers))

    def encode(self, raw: Sequence[Raw]) -> tuple[Cond, Cond]:
        """Conditions and null conditions. Texts one at a time: how one is rounded must not depend on its company."""
        if not self.teacher.prompts or not raw:
            return self.teacher.encode(raw)
        rows = {one: self.teacher.encode([one]) for one in dict.fromkeys(raw)}
        cond, null = ([rows[one][side] for one in raw] for side in (0, 1))
        return together(cond), together(null)

    def begin(self, noise: Tensor) -> Tensor:
        """What the sampler starts from, in units of the prior: the noise, or an image diffused by it."""
        if self.start is None:
            return noise
        x, t = self.start.x.to(noise).expand_as(noise), noise.new_full((len(noise),), self.start.t)
        return diffuse(x, t, self.teacher.schedule, noise) / self.teacher.schedule.prior_std

    def noise(self, seed: int | Sequence[int], numbers: Sequence[int]) -> Tensor:
        """The unit normal noise that some numbered images are made from, on the network's device."""
        like = torch.empty(len(numbers), *self.teacher.shape, device=self.device)
        return Numbered(seed, numbers).normal("noise", like)

    @property
    def device(self) -> torch.device:
        """The network's."""
        return next((p.device for p in self.network.parameters()), torch.device("cpu"))

    def images(self, raw: Sequence[Raw], seed: int, first: int = 0) -> UInt8[Tensor, "b 3 h w"]:
        """All images of draw() at once."""
        return torch.cat(list(self.draw(raw, seed, first)))

    def conditions(self, n: int) -> list[Raw]:
        """n conditions that go through all of the teacher's in turn; Nones for an unconditional one."""
        every = list(self.teacher.conditions) or [None]
        return [every[i % len(every)] for i in range(n)]


def together(rows: Sequence[Cond]) -> Cond:
    """One batch of several."""
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def tell(x: Tensor, numbers: Sequence[int]) -> None:
    """Say which image is the first whose sample is not finite."""
    first = numbers[int(x.flatten(1).isfinite().all(1).int().argmin())]
    said = "the network gave values that are not finite; its picture means nothing"
    print(f"warning: image {first}: {said}", file=sys.stderr)
