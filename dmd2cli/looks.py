"""How images look, as four numbers: what drifts when a distillation goes wrong, and what people see of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

LUMA = (0.2126, 0.7152, 0.0722)
"""Of red, green and blue (ITU-R BT.709)."""


def luma(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
    """Brightness of pixels, 0 black to 1 white."""
    weights = torch.tensor(LUMA, device=images.device).view(1, 3, 1, 1)
    return (images.float() / 255 * weights).sum(1)


def looks(images: UInt8[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, ""]]:
    """Means over the images of four numbers, all in [0, 1].

    brightness: mean luma. contrast: its standard deviation within an image. saturation: largest minus smallest channel
    of a pixel (HSV's chroma). high_frequency: the share of an image's variance of luma that a 3 x 3 mean takes away.
    """
    y = luma(images)
    spread = y.flatten(1).var(1, unbiased=False)
    smooth = F.avg_pool2d(F.pad(y[:, None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[:, 0]
    fine = (y - smooth).square().flatten(1).mean(1)
    chroma = (images.amax(1).float() - images.amin(1).float()) / 255
    return {
        "brightness": y.mean(),
        "contrast": spread.sqrt().mean(),
        "saturation": chroma.mean(),
        "high_frequency": fine.mean() / spread.mean().clamp(min=1e-8),
    }
