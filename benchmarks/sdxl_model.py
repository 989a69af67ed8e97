"""SDXL with random weights, and data that are encoded already: what benchmarks/sdxl.py runs. No file is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from dmd2_plugins.stable_diffusion.folder import SHIPPED, Folder, quiet
from dmd2_plugins.stable_diffusion.options import Model, Options
from dmd2_plugins.stable_diffusion.spec import Spec, described
from dmd2_plugins.stable_diffusion.teacher import network, wrap
from torch import nn

from dmd2cli.core.random import Rng
from dmd2cli.protocols import Example, Teacher

TINY: Mapping[str, Mapping[str, Any]] = {
    "unet": {
        "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8, "sample_size": 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "attention_head_dim": (2, 4),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": (1, 2),
        "cross_attention_dim": 56, "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 72,
    },
    "vae": {
        "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 16,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    },
}  # fmt: skip
"""Sizes of the tiny SDXL of the tests, by part: latents of 8 x 8."""


class Scaled(Folder):
    """The published configuration with other sizes."""

    changes: Mapping[str, Mapping[str, Any]] = {}

    def config(self, part: str) -> dict[str, Any]:
        return {**super().config(part), **self.changes.get(part, {})}


def spec(changes: Mapping[str, Mapping[str, Any]]) -> Spec:
    """SDXL's, with other sizes of its parts."""
    folder = type("Folder", (Scaled,), {"changes": changes})(SHIPPED / "sdxl")
    return described("sdxl", Options().placed("sdxl"), Model(folder), {}, weights=False)


def teacher(changes: Mapping[str, Mapping[str, Any]], device: torch.device) -> Callable[..., Teacher]:
    """A teacher function. Weights are PyTorch's own initial ones, the same every time; the VAE is made when needed."""

    def made(skeleton: Mapping[str, Any] | None = None) -> Teacher:
        found = spec(changes)
        with nullcontext() if skeleton is not None else device:
            wrapped = wrap(found, network(found, module(found.config)))
        codec: Any = wrapped.decode
        codec.vae.load = partial(vae, changes)
        if skeleton is not None:
            codec.vae.part = vae(changes)                  # on the meta device, where a plan finds it
        return wrapped

    return made


def module(config: Mapping[str, Any]) -> nn.Module:
    """The UNet, on the default device."""
    from diffusers import UNet2DConditionModel

    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DConditionModel.from_config(dict(config))


def vae(changes: Mapping[str, Mapping[str, Any]]) -> nn.Module:
    """The VAE, on the default device."""
    from diffusers import AutoencoderKL

    folder = type("Folder", (Scaled,), {"changes": changes})(SHIPPED / "sdxl")
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderKL.from_config(folder.config("vae"))


class Encoded:
    """Data set: normal latents and text embeddings, in half precision as in a cache. Item i is a function of i."""

    changes: Mapping[str, Mapping[str, Any]] = {}

    def __init__(self) -> None:
        found = spec(self.changes)
        self.shape, self.shapes = found.shape, {**found.shapes, "time_ids": (6,)}
        self.sizes = torch.tensor([*found.size, 0, 0, *found.size], dtype=torch.float16)
        self.items = [self.made(i) for i in range(16)]

    def made(self, i: int) -> Example:
        draw = lambda name, shape: Rng(0, i).normal(name, torch.empty(1, *shape))[0].half()  # noqa: E731
        text = {name: draw(name, shape) for name, shape in self.shapes.items()}
        return Example(draw("x", self.shape).float(), f"prompt {i}", encoded={**text, "time_ids": self.sizes})

    @property
    def null(self) -> dict[str, torch.Tensor]:
        zeros = {name: torch.zeros(shape, dtype=torch.float16) for name, shape in self.shapes.items()}
        return {**zeros, "time_ids": self.sizes}

    @staticmethod
    def encoded() -> bool:
        """For plans: conditions come with the items."""
        return True

    def __len__(self) -> int:
        return 1024

    def __getitem__(self, i: int) -> Example:
        return self.items[i % len(self.items)]


def dataset(changes: Mapping[str, Mapping[str, Any]]) -> type[Encoded]:
    """The data set of a teacher(changes)."""
    return type("Encoded", (Encoded,), {"changes": changes})
