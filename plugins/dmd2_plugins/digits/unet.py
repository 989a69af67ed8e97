"""A small class-conditional U-Net for 8 x 8 images: 8 -> 4 -> 2 and back, one residual block per level."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmd2cli.core.denoiser import SCALE, Cond


class Block(nn.Module):
    """GroupNorm, SiLU, convolution, twice; the embedding scales and shifts the second norm (Dhariwal & Nichol 2021)."""

    def __init__(self, channels_in: int, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, channels_in), nn.Conv2d(channels_in, channels, 3, padding=1)
        self.affine = nn.Linear(embedding, 2 * channels)
        self.norm2, self.conv2 = nn.GroupNorm(4, channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.affine(embedding)[:, :, None, None].chunk(2, dim=1)
        out = self.norm2(self.conv1(F.silu(self.norm1(h))))
        return self.skip(h) + self.conv2(F.silu(torch.addcmul(shift, out, 1 + scale)))


class UNet(nn.Module):
    """x (b, 1, 8, 8), c_noise (b,), cond {"label": one-hot (b, 10), zeros = no class} -> F (b, 1, 8, 8).

    The bottleneck after the middle block, (b, channels[-1], 2, 2), is what GAN heads read. With guided, cond has
    scales "guidance" (b,) as well; their embedding starts at zero, so that the network starts as it is without.
    """

    frequencies: Tensor

    def __init__(
        self, channels: tuple[int, ...] = (16, 32, 64), classes: int = 10, embedding: int = 64, guided: bool = False
    ) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(-1, 1.5, 16), persistent=False)
        layers = [nn.Linear(32 + classes, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()]
        self.embed = nn.Sequential(*layers)
        if guided:
            last = nn.Linear(embedding, embedding)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.scale = nn.Sequential(nn.Linear(32, embedding), nn.SiLU(), last)
        self.input = nn.Conv2d(1, channels[0], 3, padding=1)
        wider = list(zip((channels[0], *channels), channels, strict=False))
        self.down = nn.ModuleList(Block(a, b, embedding) for a, b in wider)
        self.middle = Block(channels[-1], channels[-1], embedding)
        above = (*channels[1:], channels[-1])
        self.up = nn.ModuleList(Block(a + b, b, embedding) for a, b in zip(above, channels, strict=True))
        self.norm, self.output = nn.GroupNorm(4, channels[0]), nn.Conv2d(channels[0], 1, 3, padding=1)

    def encode(self, x: Tensor, c_noise: Tensor, cond: Cond) -> tuple[Tensor, ...]:
        embedding = self.embed(torch.cat([self._waves(c_noise), cond["label"]], dim=1))
        if SCALE in cond:
            embedding = embedding + self.scale(self._waves(cond[SCALE].log1p()))
        h, skips = self.input(x.contiguous(memory_format=torch.channels_last)), []
        for level, block in enumerate(self.down):
            h = block(F.avg_pool2d(h, 2) if level else h, embedding)
            skips.append(h)
        return self.middle(h, embedding), embedding, *skips

    def _waves(self, value: Tensor) -> Tensor:
        """Sines and cosines (b, 32) of a number (b,)."""
        phase = value[:, None] * self.frequencies
        return torch.cat([phase.sin(), phase.cos()], dim=1)

    def taps(self, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Features after each level, 8 x 8, 4 x 4 and 2 x 2, and the bottleneck."""
        return (*state[2:], state[0])

    def decode(self, state: tuple[Tensor, ...]) -> Tensor:
        h, embedding, *skips = state
        for level in reversed(range(len(skips))):
            h = self.up[level](torch.cat([h, skips[level]], dim=1), embedding)
            h = F.interpolate(h, scale_factor=2.0) if level else h
        return self.output(F.silu(self.norm(h)))
