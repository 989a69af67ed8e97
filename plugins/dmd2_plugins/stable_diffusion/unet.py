"""A UNet2DConditionModel of diffusers as a Backbone: cut in two behind its mid block.

Stable Diffusion 1 and 2, SDXL, and whatever else differs from these in its configuration alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from dmd2cli.core.denoiser import SCALE, Cond
from dmd2cli.errors import UserError

GUIDANCE_WIDTH = 256
"""Width of the embedded guidance scale, as in LCM (Luo et al. 2023)."""

TARGETS = (
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
    "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj",
)  # fmt: skip
"""Layers that the DMD2 release gives adapters."""


class UNet(nn.Module):
    """c_noise is the integer timestep. Reads text (b, n, d); pooled, time_ids and guidance where it can."""

    casts = True

    def __init__(self, unet: nn.Module) -> None:
        """unet: a UNet2DConditionModel whose configuration check() takes."""
        super().__init__()
        self.unet: Any = unet

    def encode(self, x: Tensor, c_noise: Tensor, cond: Cond) -> tuple[Tensor, ...]:
        """(features after the mid block, time embedding, text, skips ...)."""
        net, x = self.unet, x.to(self.unet.conv_in.weight.dtype)
        text = cond["text"].to(x.dtype)
        emb = net.time_embedding(net.get_time_embed(x, c_noise), self.scale(cond, x.dtype))
        more = net.get_aug_embed(emb, text, added(cond, x.dtype))
        emb = emb if more is None else emb + more
        h = net.conv_in(x)
        skips = [h]
        for block in net.down_blocks:
            h, outputs = block(h, emb, **reading(block, text))
            skips += outputs
        return net.mid_block(h, emb, encoder_hidden_states=text), emb, text, *skips

    def decode(self, state: tuple[Tensor, ...]) -> Tensor:
        """The prediction of the up blocks."""
        h, emb, text, *skips = state
        odd = any(side % 2**self.unet.num_upsamplers for side in skips[0].shape[-2:])
        for block in self.unet.up_blocks:
            skips, here = skips[: -len(block.resnets)], tuple(skips[-len(block.resnets) :])
            size = skips[-1].shape[-2:] if odd and skips else None                 # else twice what it is
            h = block(h, here, emb, upsample_size=size, **reading(block, text))
        return self.unet.conv_out(self.unet.conv_act(self.unet.conv_norm_out(h)))

    def taps(self, state: tuple[Tensor, ...]) -> Sequence[Tensor]:
        """What each down block gives, and the features after the mid block."""
        bottleneck, _, _, *skips = state
        ends = accumulate(len(block.resnets) + len(block.downsamplers or ()) for block in self.unet.down_blocks)
        return [*(skips[end] for end in ends), bottleneck]

    def scale(self, cond: Cond, dtype: torch.dtype) -> Tensor | None:
        """The guidance scale as the pipelines of diffusers embed it: sines of 1000 (scale - 1)."""
        if not self.unet.config.time_cond_proj_dim or SCALE not in cond:
            return None
        from diffusers.models.embeddings import get_timestep_embedding

        return get_timestep_embedding(1000 * (cond[SCALE].float() - 1), self.unet.config.time_cond_proj_dim).to(dtype)


def added(cond: Cond, dtype: torch.dtype) -> dict[str, Tensor]:
    """SDXL's conditions under the names that diffusers has for them."""
    return {"text_embeds": cond["pooled"].to(dtype), "time_ids": cond["time_ids"]} if "pooled" in cond else {}


def reading(block: Any, text: Tensor) -> dict[str, Tensor]:
    """What a block with cross attention takes besides."""
    return {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}


def check(config: Mapping[str, Any]) -> None:
    """Raise UserError for a UNet of another kind: it reads images, classes or something else besides text."""
    none = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "encoder_hid_dim", "time_embedding_act_fn")
    other = [name for name in none if config.get(name) is not None]
    other += [name for name in ("center_input_sample", "class_embeddings_concat") if config.get(name)]
    if config.get("addition_embed_type") not in (None, "text_time"):
        other.append("addition_embed_type")
    if config["in_channels"] != config["out_channels"]:
        other.append("in_channels")
    if other:
        what = ", ".join(f"{name}: {config[name]}" for name in other)
        raise UserError(f"this UNet is not one of text to image alone ({what}); choose another teacher.model")


def units() -> tuple[type[nn.Module], ...]:
    """What is checkpointed and compiled as one."""
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D

    return BasicTransformerBlock, ResnetBlock2D
