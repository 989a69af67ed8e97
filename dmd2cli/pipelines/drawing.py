"""A pipeline of diffusers that draws numbered images: image i is a function of (seed, i) and its prompt.

It starts from the same noise as a Source with that seed does, if samples have the same shape. Noise that its scheduler
adds comes from a generator for each image, so that neither the batch nor the images beside one change it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from dmd2cli.core.random import Numbered, Rng
from dmd2cli.data.pair_files import fingerprint
from dmd2cli.errors import UserError
from dmd2cli.pipelines.calls import Calls, owned
from dmd2cli.pipelines.quiet import quiet
from dmd2cli.pipelines.spec import Spec
from dmd2cli.protocols import Raw
from dmd2cli.source import MOST, PIXELS, tell

Keys = Sequence[tuple[int, int]]
"""(seed, number) of each image of a batch."""


@dataclass(frozen=True)
class Reads:
    """What conditions are: free text, or one of a list, or neither."""

    prompts: bool
    conditions: Sequence[Raw]


@dataclass
class Pipeline:
    """A loaded pipeline, and how it is asked to draw. call: further options of its call."""

    pipe: Any
    spec: Spec
    call: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.known = options_of(self.pipe)
        self.calls = Calls(self.network)

    @property
    def network(self) -> Any:
        """The denoiser, a module; it was checked that there is one."""
        return denoiser(self.pipe)

    @property
    def device(self) -> torch.device:
        """The denoiser's."""
        return next(self.network.parameters()).device

    @property
    def steps(self) -> int | None:
        """Of the scheduler: as asked, or the pipeline's own default."""
        return self.spec.steps if self.spec.steps is not None else self.known.get("num_inference_steps")

    @property
    def guidance(self) -> float | None:
        """As asked, or the pipeline's own default; None: it has none."""
        return self.spec.guidance if self.spec.guidance is not None else self.known.get("guidance_scale")

    @property
    def nfe(self) -> int | None:
        """Calls of the network for each image, as counted in the last batch; None before the first."""
        return self.calls.each

    @property
    def cost(self) -> dict[str, Any]:
        """What a sample took: calls of the network, how many rows of an image each had, the guidance scale."""
        return {"nfe": self.nfe, "passes": self.calls.passes, "guidance": self.guidance}

    @cached_property
    def reads(self) -> Reads:
        """Its conditions: prompts, the classes of its network, or none."""
        if "class_labels" not in self.known:
            return Reads("prompt" in self.known, ())
        config = self.network.config
        classes = getattr(config, "num_embeds_ada_norm", None) or getattr(config, "num_class_embeds", None) or 0
        return Reads(False, range(classes))

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width) of its images in pixels."""
        if self.spec.size is not None:
            return self.spec.size
        side = getattr(self.pipe, "default_sample_size", None) or getattr(self.network.config, "sample_size", None)
        if side is None:
            raise UserError(f"{self.spec.path}: does not say how large its images are; say it: --size")
        height, width = side if isinstance(side, list | tuple) else (side, side)
        return height * factor(self.pipe), width * factor(self.pipe)

    @property
    def batch(self) -> int:
        """Images drawn at once unless another number is asked, as of a Source."""
        return max(1, min(MOST, PIXELS // math.prod(self.size)))

    @property
    def how(self) -> dict[str, Any]:
        """What its images are functions of besides weights, seed and condition. JSON values."""
        config = json.dumps({key: str(value) for key, value in sorted(self.pipe.scheduler.config.items())})
        digest = hashlib.sha256(config.encode()).hexdigest()[:16]
        facts = {"use": type(self.pipe.scheduler).__name__, "config": digest, "steps": self.steps, **self.call}
        return {"sampler": facts, "guidance": self.guidance}

    def identity(self) -> str:
        """Which weights it draws with, in 16 digits."""
        parts = [part for part in self.pipe.components.values() if isinstance(part, nn.Module)]
        return hashlib.sha256(json.dumps([fingerprint(part) for part in parts]).encode()).hexdigest()[:16]

    def conditions(self, n: int) -> list[Raw]:
        """n conditions that go through all classes in turn; Nones where there are none."""
        every = list(self.reads.conditions) or [None]
        return [every[i % len(every)] for i in range(n)]

    @torch.no_grad()
    def draw(
        self, raw: Sequence[Raw], seed: int | Sequence[int], first: int = 0, batch: int | None = None
    ) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
        """Images number first, first + 1, ... for some conditions, in batches; seed and numbers as of Source.draw()."""
        size = batch or self.batch
        for begin in range(0, len(raw), size):
            chunk = raw[begin : begin + size]
            seeds = [seed] * len(chunk) if isinstance(seed, int) else seed[begin : begin + size]
            numbers = [first + begin + k if isinstance(seed, int) else first for k in range(len(chunk))]
            yield self.images(chunk, list(zip(seeds, numbers, strict=True)))

    def images(self, raw: Sequence[Raw], keys: Keys) -> UInt8[Tensor, "b 3 h w"]:
        """One batch."""
        options = {**self.call, **self.asked(raw), **self.start(keys), "output_type": "np"}
        again = [Rng(seed, i).generator("renoise", self.device) for seed, i in keys]
        with quiet(), self.calls.counted(len(raw)), owned(self.pipe.scheduler, again):
            try:
                found = self.pipe(**options).images
            except (ValueError, IndexError, AssertionError) as err:                # what a scheduler or size cannot do
                raise UserError(f"{self.spec.path}: cannot draw so: {' '.join(str(err).split())[:200]}") from err
        x = torch.from_numpy(np.asarray(found, dtype=np.float32)).permute(0, 3, 1, 2)
        if not x.isfinite().all():
            tell(x, [i for _, i in keys])
        return (255 * x.nan_to_num().clamp(0, 1)).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()

    def asked(self, raw: Sequence[Raw]) -> dict[str, Any]:
        """Conditions, steps, guidance and size, as the options of its call."""
        found: dict[str, Any] = {"num_inference_steps": self.spec.steps, "guidance_scale": self.spec.guidance}
        if self.reads.prompts:
            found["prompt"] = list(raw)
            if self.spec.negative is not None:
                found["negative_prompt"] = [self.spec.negative] * len(raw)
        elif self.reads.conditions:
            found["class_labels"] = list(raw)
        else:
            found["batch_size"] = len(raw)
        if "height" in self.known:
            found["height"], found["width"] = self.size
        if "use_resolution_binning" in self.known:
            found["use_resolution_binning"] = False                                # it would draw another size
        return {key: value for key, value in found.items() if value is not None and key in self.known}

    def start(self, keys: Keys) -> dict[str, Any]:
        """The noise to start from: as latents, or as generators that draw the same."""
        if "latents" not in self.known:
            return {"generator": [Rng(seed, i).generator("noise", self.device) for seed, i in keys]}
        (height, width), sides, channels = self.size, factor(self.pipe), self.network.config.in_channels
        packs = getattr(self.pipe, "_pack_latents", None)
        if packs is not None:                                                      # 2 x 2 latents in one token
            channels, height, width = channels // 4, height - height % (2 * sides), width - width % (2 * sides)
        like = torch.empty(len(keys), channels, height // sides, width // sides, device=self.device)
        noise = Numbered([seed for seed, _ in keys], [i for _, i in keys]).normal("noise", like)
        noise = noise.to(self.network.dtype)
        return {"latents": noise if packs is None else packs(noise, *noise.shape)}


def options_of(pipe: Any) -> dict[str, Any]:
    """The options of a pipeline's call, with their defaults."""
    return {name: one.default for name, one in inspect.signature(pipe.__call__).parameters.items()}


def denoiser(pipe: Any) -> nn.Module | None:
    """The network that is called at every step; None if there is none by the usual names."""
    return getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)


def factor(pipe: Any) -> int:
    """Pixels of a side for one value of what the denoiser reads."""
    if (found := getattr(pipe, "vae_scale_factor", None)) is not None:
        return int(found)
    codec = getattr(pipe, "vae", None) or getattr(pipe, "vqvae", None)
    return 1 if codec is None else 2 ** (len(codec.config.block_out_channels) - 1)
