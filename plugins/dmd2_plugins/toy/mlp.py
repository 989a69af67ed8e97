"""A small multilayer perceptron on the plane: the backbone of toy generators and critics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dmd2cli.core.denoiser import Cond


class MLP(nn.Module):
    """x (b, 2), c_noise (b,), cond {} or {"label": one-hot (b, classes)} -> F (b, 2).

    depth hidden layers of `width`; the last but one is the bottleneck (b, width) that GAN heads read.
    """

    frequencies: Tensor

    def __init__(self, width: int = 128, depth: int = 3, classes: int = 0) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2.0 ** torch.arange(4), persistent=False)
        hidden = [layer for _ in range(depth - 2) for layer in (nn.Linear(width, width), nn.SiLU())]
        self.encoder = nn.Sequential(nn.Linear(2 + 8 + classes, width), nn.SiLU(), *hidden)
        self.decoder = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2))

    def encode(self, x: Tensor, c_noise: Tensor, cond: Cond) -> tuple[Tensor, ...]:
        phase = c_noise[:, None] * self.frequencies
        return (self.encoder(torch.cat([x, phase.sin(), phase.cos(), *cond.values()], dim=1)),)

    def taps(self, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return state

    def decode(self, state: tuple[Tensor, ...]) -> Tensor:
        return self.decoder(state[0])
