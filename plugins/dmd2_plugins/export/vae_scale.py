"""Latents in other units: the scale of a VAE goes into its weights, for layouts that have a scale of their own."""

from __future__ import annotations

import math
from typing import Any

import torch

from dmd2cli.errors import UserError


@torch.no_grad()
def rescaled(vae: Any, scale: float, shift: float, wanted: float) -> None:
    """Change an AutoencoderKL in place, so that x / wanted is to it what x / scale + shift was. x: model units.

    Its convolutions of 1 x 1 between network and latents take that up exactly: before the decoder
    z = (wanted / scale) z' + shift, behind the encoder the mean (z - shift) scale / wanted and the same for the spread.
    Raises UserError for a VAE that has none.
    """
    if scale == wanted and not shift:
        return
    before, behind = getattr(vae, "post_quant_conv", None), getattr(vae, "quant_conv", None)
    if before is None or behind is None:
        why = f"the VAE's scale is {scale:g} and this layout means {wanted:g}; it has no layer that could take that up"
        raise UserError(f"{why}; choose diffusers")
    before.bias += shift * before.weight.sum((1, 2, 3))
    before.weight *= wanted / scale
    n, ratio = before.weight.shape[1], scale / wanted
    behind.bias[:n] -= shift
    behind.weight[:n] *= ratio
    behind.bias[:n] *= ratio
    behind.bias[n:] += 2 * math.log(ratio)
    vae.register_to_config(scaling_factor=wanted, shift_factor=None)
