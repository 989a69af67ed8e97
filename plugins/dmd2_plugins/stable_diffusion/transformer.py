"""Transformers of diffusers as Backbones, cut in two at their middle block: SD3, PixArt, FLUX.

Features are the tokens of the image there, as a grid (b, c, h, w).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dmd2cli.core.denoiser import SCALE, Cond

TARGETS = (
    "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff.net.0.proj",
    "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp",
)  # fmt: skip
"""Layers that get adapters: attention and feed-forward, of image and text."""


class Transformer(nn.Module):
    """What the three have in common."""

    casts = True

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer: Any = transformer

    @property
    def blocks(self) -> list[Any]:
        """All of them, in the order of the forward pass."""
        return list(self.transformer.transformer_blocks)

    @property
    def halves(self) -> tuple[list[Any], list[Any]]:
        """The blocks before the features and those behind."""
        return self.blocks[: len(self.blocks) // 2], self.blocks[len(self.blocks) // 2 :]

    def typed(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Tensors in the type of the weights."""
        return tuple(x.to(self.transformer.proj_out.weight.dtype) for x in tensors)

    def taps(self, state: tuple[Tensor, ...]) -> Sequence[Tensor]:
        """The features alone: all blocks of a transformer have one resolution."""
        return [state[0]]


class SD3(Transformer):
    """SD3Transformer2DModel; c_noise is 1000 sigma. Reads text (b, n, d) and pooled (b, d)."""

    def encode(self, x: Tensor, c_noise: Tensor, cond: Cond) -> tuple[Tensor, ...]:
        """(features, text, time embedding)."""
        net, (x, text, pooled) = self.transformer, self.typed(x, cond["text"], cond["pooled"])
        temb, text = net.time_text_embed(c_noise, pooled), net.context_embedder(text)
        h, text = through(self.halves[0], net.pos_embed(x).contiguous(), text, temb=temb)
        return grid(h, x, net.config.patch_size), text, temb

    def decode(self, state: tuple[Tensor, ...]) -> Tensor:
        """The prediction of the other blocks."""
        features, text, temb = state
        h, _ = through(self.halves[1], tokens(features), text, temb=temb)
        net = self.transformer
        return unpatched(net.proj_out(net.norm_out(h, temb)), features, net.config.patch_size)


class PixArt(Transformer):
    """PixArtTransformer2DModel; c_noise is the integer timestep. Reads text (b, n, d), mask (b, n), time_ids (b, 6)."""

    def encode(self, x: Tensor, c_noise: Tensor, cond: Cond) -> tuple[Tensor, ...]:
        """(features, text, bias of the attention to it, modulation of the blocks, time embedding)."""
        net, (x, text, mask) = self.transformer, self.typed(x, cond["text"], cond["mask"])
        h = net.pos_embed(x)
        modulation, emb = net.adaln_single(c_noise, self.sizes(cond, x), batch_size=x.shape[0], hidden_dtype=h.dtype)
        text, bias = net.caption_projection(text), ((1 - mask) * -10000).unsqueeze(1)
        for block in self.halves[0]:
            h = block(h, encoder_hidden_states=text, encoder_attention_mask=bias, timestep=modulation)
        return grid(h, x, net.config.patch_size), text, bias, modulation, emb

    def decode(self, state: tuple[Tensor, ...]) -> Tensor:
        """The prediction of the other blocks, without that of the variance where there is one."""
        features, text, bias, modulation, emb = state
        net, h = self.transformer, tokens(features)
        for block in self.halves[1]:
            h = block(h, encoder_hidden_states=text, encoder_attention_mask=bias, timestep=modulation)
        shift, scale = (net.scale_shift_table[None] + emb[:, None]).chunk(2, dim=1)
        h = net.proj_out(net.norm_out(h) * (1 + scale) + shift)
        return unpatched(h, features, net.config.patch_size)[:, : net.config.in_channels]

    def sizes(self, cond: Cond, x: Tensor) -> dict[str, Tensor | None]:
        """Height and width, and their ratio, where the network reads them."""
        if not self.transformer.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        size = cond["time_ids"][:, :2].to(x.dtype)
        return {"resolution": size, "aspect_ratio": (cond["time_ids"][:, :1] / cond["time_ids"][:, 1:2]).to(x.dtype)}


class Flux(Transformer):
    """FluxTransformer2DModel; c_noise is 1000 sigma. Reads text (b, n, d), pooled (b, d); guidance (b,) if it can."""

    default_guidance = 3.5
    """What a network that reads the scale is told where there is none: the default of its pipeline."""

    @property
    def blocks(self) -> list[Any]:
        return [*self.transformer.transformer_blocks, *self.transformer.single_transformer_blocks]

    def encode(self, x: Tensor, c_noise: Tensor, cond: Cond) -> tuple[Tensor, ...]:
        """(features, text, time embedding)."""
        net, (x, text, pooled) = self.transformer, self.typed(x, cond["text"], cond["pooled"])
        scale = cond[SCALE] if SCALE in cond else torch.full_like(c_noise, self.default_guidance)
        temb = net.time_text_embed(c_noise, *([1000 * scale] if net.config.guidance_embeds else []), pooled)
        packed = nn.functional.pixel_unshuffle(x, 2)
        h, text = net.x_embedder(tokens(packed)), net.context_embedder(text)
        h, text = through(self.halves[0], h, text, temb=temb, image_rotary_emb=self.places(packed, text))
        return grid(h, x, 2), text, temb

    def decode(self, state: tuple[Tensor, ...]) -> Tensor:
        """The prediction of the other blocks."""
        features, text, temb = state
        rest = {"temb": temb, "image_rotary_emb": self.places(features, text)}
        h, _ = through(self.halves[1], tokens(features), text, **rest)
        h = self.transformer.proj_out(self.transformer.norm_out(h, temb))
        return nn.functional.pixel_shuffle(grid(h, features, 1), 2)

    def places(self, features: Tensor, text: Tensor) -> Any:
        """Rotary embedding of text, at the origin, and of the rows and columns of the image."""
        h, w = features.shape[-2:]
        sides = (torch.arange(n, device=text.device) for n in (h, w))
        rows, columns = torch.meshgrid(*sides, indexing="ij")
        ids = torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1)
        return self.transformer.pos_embed(torch.cat([ids.new_zeros(text.shape[1], 3), ids]))


def through(blocks: Iterable[Any], h: Tensor, text: Tensor, **rest: Any) -> tuple[Tensor, Tensor]:
    """Tokens of image and text behind some blocks that change both."""
    for block in blocks:
        text, h = block(hidden_states=h, encoder_hidden_states=text, **rest)
    return h, text


def grid(h: Tensor, x: Tensor, patch: int) -> Tensor:
    """Tokens (b, n, c) of an image x as (b, c, h, w)."""
    return h.transpose(1, 2).view(h.shape[0], h.shape[2], x.shape[-2] // patch, x.shape[-1] // patch)


def tokens(features: Tensor) -> Tensor:
    """The inverse of grid."""
    return features.flatten(2).transpose(1, 2)


def unpatched(h: Tensor, features: Tensor, patch: int) -> Tensor:
    """Patches (b, n, patch * patch * c) as an image (b, c, h * patch, w * patch)."""
    rows, columns = features.shape[-2:]
    h = h.view(h.shape[0], rows, columns, patch, patch, -1).permute(0, 5, 1, 3, 2, 4)             # b c h p w q
    return h.flatten(4, 5).flatten(2, 3)


def units() -> tuple[type[nn.Module], ...]:
    """What is checkpointed and compiled as one."""
    from diffusers.models.attention import BasicTransformerBlock, JointTransformerBlock
    from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock

    return BasicTransformerBlock, JointTransformerBlock, FluxTransformerBlock, FluxSingleTransformerBlock
