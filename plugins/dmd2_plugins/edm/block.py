"""The residual block that ADM, DDPM++ and NCSN++ share, with attention where a resolution has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dmd2_plugins.edm import initial
from dmd2_plugins.edm.layers import Conv, GroupNorm, Linear, Resample, conv

HEAD = 64
"""Channels of an attention head in ADM."""


@dataclass(frozen=True)
class Style:
    """What the families do differently inside a block."""

    heads: int | None = None
    """Attention heads; None: one per 64 channels."""
    adaptive: bool = True
    """The embedding scales and shifts the second norm (Dhariwal & Nichol 2021, Sec. 3.1), instead of being added."""
    projected: bool = False
    """A resampled skip has a 1 x 1 convolution even if the channels stay."""
    skip_scale: float = 1.0
    """Factor after every sum of a residual."""
    eps: float = 1e-5
    taps: tuple[int, ...] = (1, 1)
    """Filter of the resampling."""
    dropout: float = 0.0
    first: Callable[[initial.Layer], None] = initial.kaiming
    attention: Callable[[initial.Layer], None] = initial.kaiming
    last: Callable[[initial.Layer], None] = initial.zero


class Block(nn.Module):
    """(b, in, h, w), embedding (b, e) -> (b, out, h', w'): norm, SiLU, convolution, twice; then attention."""

    def __init__(
        self, channels_in: int, channels: int, embedding: int, style: Style, attention: bool, direction: str | None
    ) -> None:
        """direction: up, down, or None to keep the side."""
        super().__init__()
        self.style, self.heads = style, 0
        self.norm0 = GroupNorm(channels_in, style.eps)
        self.conv0 = conv(channels_in, channels, 3, direction, style.taps)
        self.affine = Linear(embedding, channels * (2 if style.adaptive else 1))
        self.norm1, self.conv1 = GroupNorm(channels, style.eps), Conv(channels, channels, 3)
        self.skip: nn.Module | None = None
        if channels_in != channels or (direction and style.projected):
            self.skip = conv(channels_in, channels, 1, direction, style.taps)
            style.first(self.skip)
        elif direction:
            self.skip = Resample(direction, style.taps)
        for layer in (self.conv0, self.affine):
            style.first(layer)
        style.last(self.conv1)
        if attention:
            self._add_attention(channels)

    def _add_attention(self, channels: int) -> None:
        """As published, ADM has none where there are fewer channels than one head takes."""
        self.heads = self.style.heads or channels // HEAD
        if self.heads == 0:
            return
        self.norm2 = GroupNorm(channels, self.style.eps)
        self.qkv, self.proj = Conv(channels, 3 * channels, 1), Conv(channels, channels, 1)
        self.style.attention(self.qkv)
        self.style.last(self.proj)

    def forward(self, h: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b o i j"]:
        out = self.conv0(F.silu(self.norm0(h)))
        found = self.affine(embedding).to(out.dtype)[:, :, None, None]
        if self.style.adaptive:
            scale, shift = found.chunk(2, dim=1)
            out = torch.addcmul(shift, self.norm1(out), scale + 1)
        else:
            out = self.norm1(out + found)
        out = self.conv1(F.dropout(F.silu(out), self.style.dropout, self.training))
        h = self._sum(out, h if self.skip is None else self.skip(h))
        return self._sum(self._attend(h), h) if self.heads else h

    def _sum(self, out: Tensor, h: Tensor) -> Tensor:
        return out + h if self.style.skip_scale == 1.0 else (out + h) * self.style.skip_scale

    def _attend(self, h: Tensor) -> Tensor:
        """Attention over the pixels, its projections as matrix products on the (channels last) memory."""
        b, c, height, width = h.shape
        x = self.norm2(h).permute(0, 2, 3, 1).reshape(b, height * width, c)
        weight, bias = self._sorted(x.dtype)
        qkv = F.linear(x, weight, bias).view(b, height * width, 3, self.heads, c // self.heads)
        q, k, v = qkv.transpose(1, 3).unbind(2)
        out = F.scaled_dot_product_attention(q, k, v)
        out = out.transpose(1, 2).reshape(b, height * width, c)
        out = F.linear(out, self.proj.weight.flatten(1).to(x.dtype), self.proj.bias.to(x.dtype))
        return out.view(b, height, width, c).permute(0, 3, 1, 2)

    def _sorted(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Weight and bias of qkv with rows (qkv, head, channel); published (head, channel, qkv) interleaves them.

        The weight is small: sorting it leaves q, k and v contiguous, which the attention kernels ask for.
        """
        c = self.qkv.weight.shape[1]
        weight = self.qkv.weight.reshape(self.heads, c // self.heads, 3, c).movedim(2, 0).reshape(3 * c, c)
        return weight.to(dtype), self.qkv.bias.view(self.heads, -1, 3).movedim(2, 0).flatten().to(dtype)
