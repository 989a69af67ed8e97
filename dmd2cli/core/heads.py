"""GAN heads: small discriminators on the features of the critic ([DMD2] Sec. 4.3), or of the frozen teacher."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def conv_head(channels: int, side: int) -> nn.Module:
    """(b, channels, side, side) -> logits (b, 1): strided convolutions down to 1 x 1, GroupNorm, SiLU.

    The layout of the released heads: halve (kernel 4, stride 2) until 4 x 4, one convolution over what is
    left, a 1 x 1 convolution. side must be a power of two; besides the 1 x 1, side 8 makes two convolutions, 32 four.
    """
    layers: list[nn.Module] = []
    while side > 4:
        layers += [nn.Conv2d(channels, channels, 4, stride=2, padding=1), _norm(channels), nn.SiLU()]
        side //= 2
    layers += [nn.Conv2d(channels, channels, side), _norm(channels), nn.SiLU(), nn.Conv2d(channels, 1, 1)]
    return nn.Sequential(*layers, nn.Flatten())


def linear_head(*widths: int) -> nn.Module:
    """(b, widths[0]) -> logits (b, 1): an MLP with SiLU, for vector features."""
    layers: list[nn.Module] = []
    for wide, next_wide in pairwise(widths):
        layers += [nn.Linear(wide, next_wide), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))


class Heads(nn.Module):
    """One head per depth: features of several depths, batch first, -> logits (b, depths) in float32."""

    def __init__(self, shapes: Sequence[Sequence[int]]) -> None:
        """shapes: of the features at each depth, with the batch."""
        super().__init__()
        self.heads = nn.ModuleList(head_for(shape) for shape in shapes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return torch.cat([logits(head, h) for head, h in zip(self.heads, features, strict=True)], dim=1)


def head_for(shape: Sequence[int]) -> nn.Module:
    """A head for features of a shape: (b, c) or (b, c, side, side)."""
    return linear_head(shape[1], shape[1]) if len(shape) == 2 else conv_head(shape[1], shape[-1])


def _norm(channels: int) -> nn.GroupNorm:
    """32 groups as released, fewer for narrow features: a group at 1 x 1 has no fewer values than the release's 24."""
    most = max(1, min(32, channels // 24))
    return nn.GroupNorm(next(n for n in range(most, 0, -1) if channels % n == 0), channels)


def logits(head: nn.Module, features: Tensor) -> Tensor:
    """Discriminator logits (b, 1) in float32: heads run outside autocast, as the release does."""
    return head(features.float())
