"""How layers start (Karras et al. 2022, released configurations), from torch's default generator."""

from __future__ import annotations

import math

from torch import Tensor, nn

from dmd2_plugins.edm.layers import Conv, Linear, ResampledConv

Layer = Linear | Conv | ResampledConv


def kaiming(layer: Layer) -> None:
    """ADM: weights and biases uniform within 1 / sqrt(fan_in), which is He's bound times sqrt(1/3)."""
    bound = 1 / math.sqrt(fans(layer.weight)[0])
    nn.init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        nn.init.uniform_(layer.bias, -bound, bound)


def xavier(layer: Layer, gain: float = 1.0) -> None:
    """DDPM++ and NCSN++: weights uniform within gain sqrt(6 / (fan_in + fan_out)), biases zero."""
    bound = gain * math.sqrt(6 / sum(fans(layer.weight)))
    nn.init.uniform_(layer.weight, -bound, bound)


def zero(layer: Layer) -> None:
    """ADM's last layers: a residual branch starts as nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def nearly_zero(layer: Layer) -> None:
    """The last layers of DDPM++ and NCSN++."""
    xavier(layer, 1e-5)


def for_attention(layer: Layer) -> None:
    """Queries, keys and values of DDPM++ and NCSN++."""
    xavier(layer, math.sqrt(0.2))


def fans(weight: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a linear or convolution weight."""
    return weight[0].numel(), weight[:, 0].numel()
