"""Layers of the EDM family. Each computes in the type of its input and casts its own weights to it on use.

So one network serves float32 and bfloat16, and its weights may be stored in either: what is cast is small next to
the activations. Names of weights and buffers are those of the published files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Linear(nn.Module):
    """(..., in) -> (..., out)."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class GroupNorm(nn.Module):
    """At most 32 groups of at least 4 channels each; statistics are float32 whatever the input is."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.groups, self.eps = min(32, channels // 4), eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class Resample(nn.Module):
    """(b, c, h, w) to half or twice the side, by a separable filter (Zhang 2019); (1, 1) is a 2 x 2 box."""

    resample_filter: Tensor

    def __init__(self, direction: str, taps: Sequence[int]) -> None:
        """direction: up or down."""
        super().__init__()
        self.direction, self.box = direction, list(taps) == [1, 1]
        row = torch.tensor(taps, dtype=torch.float32)
        self.register_buffer("resample_filter", (torch.outer(row, row) / row.sum() ** 2)[None, None])
        self.padding = (len(taps) - 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        up = self.direction == "up"
        if self.box:
            return F.interpolate(x, scale_factor=2.0) if up else F.avg_pool2d(x, 2)
        if up:                                             # zeros between the pixels take three quarters of the sum
            return F.conv_transpose2d(x, 4 * self.depthwise(x), None, 2, self.padding, groups=x.shape[1])
        return F.conv2d(x, self.depthwise(x), None, 2, self.padding, groups=x.shape[1])

    def depthwise(self, x: Tensor) -> Tensor:
        """The filter, once per channel of x."""
        return self.resample_filter.to(x.dtype).expand(x.shape[1], -1, -1, -1)


class Conv(nn.Module):
    """A convolution that keeps the side: odd kernel, zero padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.to(x.dtype), self.bias.to(x.dtype), padding=self.weight.shape[-1] // 2)


class ResampledConv(Resample):
    """A convolution after resampling."""

    def __init__(self, inputs: int, outputs: int, kernel: int, direction: str, taps: Sequence[int]) -> None:
        super().__init__(direction, taps)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return F.conv2d(x, self.weight.to(x.dtype), self.bias.to(x.dtype), padding=self.weight.shape[-1] // 2)


class FilteredConv(ResampledConv):
    """A convolution before halving the side: the filter runs over its result, and zeros are added once, around x."""

    def __init__(self, inputs: int, outputs: int, kernel: int, taps: Sequence[int]) -> None:
        super().__init__(inputs, outputs, kernel, "down", taps)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.weight.to(x.dtype), padding=self.weight.shape[-1] // 2 + self.padding)
        x = F.conv2d(x, self.depthwise(x), None, 2, groups=x.shape[1])
        return x + self.bias.to(x.dtype)[:, None, None]


def conv(inputs: int, outputs: int, kernel: int, direction: str | None, taps: Sequence[int]) -> Conv | ResampledConv:
    """A convolution, after resampling if a direction is given."""
    return ResampledConv(inputs, outputs, kernel, direction, taps) if direction else Conv(inputs, outputs, kernel)


class Fourier(nn.Module):
    """Random frequencies (Tancik et al. 2020) of standard deviation 16: (b,) -> (b, channels), cosines first."""

    freqs: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 16 * torch.randn(channels // 2))

    def forward(self, value: Float[Tensor, " b"]) -> Float[Tensor, "b c"]:
        return waves(value, 2 * math.pi * self.freqs)


def positional(value: Float[Tensor, " b"], channels: int, endpoint: bool) -> Float[Tensor, "b c"]:
    """Frequencies falling from 1 to 1/10000 (Vaswani et al. 2017), that last one included or not; cosines first."""
    half = channels // 2
    exponent = torch.arange(half, dtype=torch.float32, device=value.device) / (half - endpoint)
    return waves(value, (1 / 10000) ** exponent)


def waves(value: Tensor, frequencies: Tensor) -> Tensor:
    """Cosines, then sines."""
    phase = value[:, None] * frequencies.to(value.dtype)
    return torch.cat([phase.cos(), phase.sin()], dim=1)
