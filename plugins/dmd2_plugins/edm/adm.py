"""ADM (Dhariwal & Nichol 2021), as EDM trained it on ImageNet-64."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dmd2_plugins.edm import initial
from dmd2_plugins.edm.block import Style
from dmd2_plugins.edm.config import Config
from dmd2_plugins.edm.layers import Conv, GroupNorm, Linear, positional
from dmd2_plugins.edm.unet import UNet
from dmd2cli.core.denoiser import Cond


class ADM(UNet):
    """Attention in all blocks of some resolutions; the label joins the embedding after its MLP."""

    def __init__(self, config: Config, guided: bool = False) -> None:
        super().__init__(config, Style(dropout=config.dropout), guided)
        c = config
        self.map_layer0, self.map_layer1 = Linear(c.model_channels, c.embedding), Linear(c.embedding, c.embedding)
        for layer in (self.map_layer0, self.map_layer1):
            initial.kaiming(layer)
        if c.label_dim:
            self.map_label = Linear(c.label_dim, c.embedding, bias=False)
            nn.init.normal_(self.map_label.weight)
        if c.augment_dim:
            self.map_augment = Linear(c.augment_dim, c.model_channels, bias=False)
            initial.zero(self.map_augment)
        width = c.model_channels * c.channel_mult[0]
        self.out_norm, self.out_conv = GroupNorm(width, self.style.eps), Conv(width, c.img_channels, 3)
        initial.zero(self.out_conv)

    def embed(self, c_noise: Tensor, cond: Cond) -> Tensor:
        found = positional(c_noise, self.config.model_channels, endpoint=False)
        if self.config.augment_dim and "augment" in cond:
            found = found + self.map_augment(cond["augment"])
        found = self.map_layer1(F.silu(self.map_layer0(found)))
        return found + self.map_label(self.labels(cond)) if self.config.label_dim else found

    def predict(self, h: Tensor) -> Tensor:
        return self.out_conv(F.silu(self.out_norm(h)))
