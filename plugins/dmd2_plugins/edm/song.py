"""DDPM++ and NCSN++ (Song et al. 2021), as EDM trained them on CIFAR-10, FFHQ and AFHQv2."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from dmd2_plugins.edm import initial
from dmd2_plugins.edm.block import Style
from dmd2_plugins.edm.config import Config
from dmd2_plugins.edm.layers import Conv, Fourier, GroupNorm, Linear, positional
from dmd2_plugins.edm.unet import UNet
from dmd2cli.core.denoiser import Cond


class Song(UNet):
    """DDPM++ with positional embedding; NCSN++ with a Fourier one, a wider filter and a pyramid of the input."""

    sparse_attention = True

    def __init__(self, config: Config, guided: bool = False) -> None:
        super().__init__(config, song_style(config), guided)
        c, channels = config, config.model_channels * config.channel_mult_noise
        if c.embedding_type == "fourier":
            self.map_noise = Fourier(channels)
        self.map_label = Linear(c.label_dim, channels) if c.label_dim else None
        self.map_augment = Linear(c.augment_dim, channels, bias=False) if c.augment_dim else None
        self.map_layer0, self.map_layer1 = Linear(channels, c.embedding), Linear(c.embedding, c.embedding)
        for layer in (self.map_label, self.map_augment, self.map_layer0, self.map_layer1):
            if layer is not None:
                initial.xavier(layer)
        self._out, width = f"{c.img_resolution}x{c.img_resolution}_aux", c.model_channels * c.channel_mult[0]
        self.dec[f"{self._out}_norm"] = GroupNorm(width, self.style.eps)
        self.dec[f"{self._out}_conv"] = last = Conv(width, c.img_channels, 3)
        initial.nearly_zero(last)

    def embed(self, c_noise: Tensor, cond: Cond) -> Tensor:
        c = self.config
        if c.embedding_type == "fourier":
            found = self.map_noise(c_noise)
        else:
            found = positional(c_noise, c.model_channels * c.channel_mult_noise, endpoint=True)
        found = found.roll(found.shape[1] // 2, dims=1)                      # sines first, as published
        if self.map_label is not None:
            found = found + self.map_label(self.labels(cond) * math.sqrt(c.label_dim))
        if self.map_augment is not None and "augment" in cond:
            found = found + self.map_augment(cond["augment"])
        return self.map_layer1(F.silu(self.map_layer0(found)))

    def predict(self, h: Tensor) -> Tensor:
        norm: nn.Module = self.dec[f"{self._out}_norm"]
        return self.dec[f"{self._out}_conv"](F.silu(norm(h)))


def song_style(config: Config) -> Style:
    """One attention head, residuals scaled by sqrt(1/2), Glorot's initialisation."""
    taps, scale = tuple(config.resample_filter), math.sqrt(0.5)
    starts = (initial.xavier, initial.for_attention, initial.nearly_zero)
    return Style(1, False, True, scale, 1e-6, taps, config.dropout, *starts)
