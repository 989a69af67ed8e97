"""Points of the plane as small pictures and back: a sample is a bright dot where it lies."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dmd2_plugins.toy.mixture import Mixture

SIDE = 32
"""Pixels per side."""
RADIUS = 1.5
"""Standard deviation of a dot, in pixels."""


def pixels(found: Mixture) -> Float[Tensor, " side"]:
    """Coordinates of the pixel centres along one axis: all modes, and a margin of a quarter of the frame."""
    half = 1.25 * float(found.means.abs().max()) + 4 * found.std
    return (torch.arange(SIDE) + 0.5) / SIDE * 2 * half - half


def to_uint8(x: Float[Tensor, "b 2"], axis: Float[Tensor, " side"]) -> UInt8[Tensor, "b 3 32 32"]:
    """A Gaussian dot per sample, x to the right and y upwards; black if it lies far outside the frame of pixels()."""
    axis = axis.to(x)
    columns, rows = (torch.exp(-(((axis - c[:, None]) / (RADIUS * (axis[1] - axis[0]))) ** 2) / 2) for c in x.unbind(1))
    dot = rows.flip(1)[:, None, :, None] * columns[:, None, None, :]
    return (255 * dot).round().to(torch.uint8).expand(-1, 3, -1, -1)


def to_points(images: UInt8[Tensor, "b 3 32 32"], axis: Float[Tensor, " side"]) -> Float[Tensor, "b 2"]:
    """The centre of every dot, to a hundredth of a pixel inside the frame; NaN for a black picture."""
    light = images[:, 0].float()
    columns, rows = light.sum(1), light.sum(2).flip(1)
    return torch.stack([columns @ axis / columns.sum(1), rows @ axis / rows.sum(1)], dim=1)
