"""Networks of diffusers that can teach: how each is cut into a Backbone, and what it reads of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from dmd2_plugins.stable_diffusion import text, transformer, unet
from dmd2cli.core.heads import head_for
from dmd2cli.errors import UserError

Config = Mapping[str, Any]

CLIP = 77
"""Tokens that CLIP reads."""

LENGTHS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300, "StableDiffusion3Pipeline": 256, "FluxPipeline": 512}
"""Tokens that T5 reads, by the defaults of the pipelines."""


@dataclass(frozen=True)
class Family:
    """One kind of network."""

    part: str
    """unet or transformer: its name in a pipeline."""
    backbone: Callable[[nn.Module], nn.Module]
    units: Callable[[], tuple[type[nn.Module], ...]]
    text: type[text.Text]
    targets: tuple[str, ...]
    """Layers that get adapters unless a recipe names others."""
    shapes: Callable[[Config, int], dict[str, tuple[int, ...]]]
    """(configuration, tokens of T5) -> shapes of one row of what the text encoder gives."""
    sized: bool = False
    """Whether it reads time_ids."""
    null: str | None = ""
    """The prompt of the null condition; None for zeros."""

    def features(self, config: Config, height: int, width: int) -> tuple[int, int, int]:
        """(channels, h, w) of the features for latents of a size."""
        if self.part == "unet":
            for _ in config["block_out_channels"][1:]:
                height, width = -(-height // 2), -(-width // 2)
            return config["block_out_channels"][-1], height, width
        patch = 2 if self.backbone is transformer.Flux else config["patch_size"]
        return config["num_attention_heads"] * config["attention_head_dim"], height // patch, width // patch

    def head(self, config: Config, height: int, width: int) -> nn.Module:
        """A fresh GAN head. Raises UserError for images that are not square."""
        shape = self.features(config, height, width)
        if shape[1] != shape[2]:
            raise UserError(f"resolution: a GAN head needs square images; these have features {shape[1]} x {shape[2]}")
        return head_for((1, *shape))


def sd(config: Config, length: int) -> dict[str, tuple[int, ...]]:
    """Of Stable Diffusion 1 and 2: CLIP's tokens."""
    return {"text": (CLIP, config["cross_attention_dim"])}


def sdxl(config: Config, length: int) -> dict[str, tuple[int, ...]]:
    """Of SDXL: tokens of both encoders, and the pooled output of the second."""
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    return {**sd(config, length), "pooled": (pooled,)}


def sd3(config: Config, length: int) -> dict[str, tuple[int, ...]]:
    """Of SD3: CLIP's tokens and T5's behind them, and the pooled outputs of both CLIPs."""
    return {"text": (CLIP + length, config["joint_attention_dim"]), "pooled": (config["pooled_projection_dim"],)}


def pixart(config: Config, length: int) -> dict[str, tuple[int, ...]]:
    """Of PixArt: T5's tokens and which of them count."""
    return {"text": (length, config["caption_channels"]), "mask": (length,)}


def flux(config: Config, length: int) -> dict[str, tuple[int, ...]]:
    """Of FLUX: T5's tokens, and CLIP's pooled output."""
    return {"text": (length, config["joint_attention_dim"]), "pooled": (config["pooled_projection_dim"],)}


SD = Family("unet", unet.UNet, unet.units, text.Clip, unet.TARGETS, sd)
XL = Family("unet", unet.UNet, unet.units, text.ClipPair, unet.TARGETS, sdxl, sized=True, null=None)
dit = partial(Family, "transformer", units=transformer.units, targets=transformer.TARGETS)
TRANSFORMERS = {
    "SD3Transformer2DModel": dit(backbone=transformer.SD3, text=text.ClipPairT5, shapes=sd3),
    "PixArtTransformer2DModel": dit(backbone=transformer.PixArt, text=text.MaskedT5, shapes=pixart, sized=True),
    "FluxTransformer2DModel": dit(backbone=transformer.Flux, text=text.ClipAndT5, shapes=flux),
}


def family(config: Config) -> Family:
    """Of a network's configuration. Raises UserError for one that cannot teach."""
    name = str(config.get("_class_name"))
    if name in TRANSFORMERS:
        return TRANSFORMERS[name]
    if name != "UNet2DConditionModel":
        raise UserError(f"a {name} cannot teach yet; known are UNet2DConditionModel, {', '.join(TRANSFORMERS)}")
    unet.check(config)
    return XL if config.get("addition_embed_type") == "text_time" else SD
