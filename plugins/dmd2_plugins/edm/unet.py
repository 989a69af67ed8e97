"""The U-Net that the families share: levels of blocks down, the same and one more block up, everything concatenated."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmd2_plugins.edm.block import Block, Style
from dmd2_plugins.edm.config import Config
from dmd2_plugins.edm.layers import Conv, FilteredConv, Linear, waves
from dmd2cli.core.denoiser import SCALE, Cond


class UNet(nn.Module):
    """x (b, c, s, s), c_noise (b,), cond -> F (b, c, s, s): a Backbone, its layers under their published names.

    cond: "label" one-hot (b, classes), zeros for no label; "augment" (b, n), may be missing; "guidance" (b,), scales
    that only a network made with `guided` reads. The bottleneck is where the encoder ends, before the decoder's own
    blocks at that side: what the released GAN heads read. Blocks compute in autocast's type, the embedding in float32.
    """

    sparse_attention = False
    """Of the decoder's blocks at a resolution with attention, only the last has it."""

    def __init__(self, config: Config, style: Style, guided: bool) -> None:
        super().__init__()
        self.config, self.style = config, style
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self._build_decoder(self._build_encoder())
        if guided:
            self.map_scale = scale_embedding(config.embedding)

    def _block(self, channels_in: int, channels: int, attention: bool, direction: str | None = None) -> Block:
        return Block(channels_in, channels, self.config.embedding, self.style, attention, direction)

    def _build_encoder(self) -> list[int]:
        """Fills enc; returns the channels of what its layers hand to the decoder."""
        c, width = self.config, self.config.model_channels
        skips, aux = [width], c.img_channels
        self.enc[f"{c.img_resolution}x{c.img_resolution}_conv"] = stem = Conv(c.img_channels, width, 3)
        self.style.first(stem)
        for level, multiple in enumerate(c.channel_mult):
            side = c.img_resolution >> level
            if level:
                self.enc[f"{side}x{side}_down"] = self._block(width, width, False, "down")
                skips.append(width)
            if level and c.encoder_type == "residual":
                self.enc[f"{side}x{side}_aux_residual"] = found = FilteredConv(aux, width, 3, self.style.taps)
                self.style.first(found)
                aux = width
            for i in range(c.num_blocks):
                wide = c.model_channels * multiple
                self.enc[f"{side}x{side}_block{i}"] = self._block(width, wide, side in c.attn_resolutions)
                skips.append(width := wide)
        return skips

    def _build_decoder(self, skips: list[int]) -> None:
        c, width = self.config, skips[-1]
        for level in reversed(range(len(c.channel_mult))):
            side, wide = c.img_resolution >> level, c.model_channels * c.channel_mult[level]
            if level == len(c.channel_mult) - 1:
                self.dec[f"{side}x{side}_in0"] = self._block(width, width, True)
                self.dec[f"{side}x{side}_in1"] = self._block(width, width, False)
            else:
                self.dec[f"{side}x{side}_up"] = self._block(width, width, False, "up")
            for i in range(c.num_blocks + 1):
                attention = side in c.attn_resolutions and (i == c.num_blocks or not self.sparse_attention)
                self.dec[f"{side}x{side}_block{i}"] = self._block(width + skips.pop(), wide, attention)
                width = wide

    def embed(self, c_noise: Tensor, cond: Cond) -> Tensor:
        """The embedding (b, e) of noise level and conditions, before its last SiLU."""
        raise NotImplementedError

    def predict(self, h: Tensor) -> Tensor:
        """F from what the last block gives."""
        raise NotImplementedError

    def labels(self, cond: Cond) -> Tensor:
        """One-hot labels, some of them hidden in training if the network has label dropout."""
        found, p = cond["label"], self.config.label_dropout
        if self.training and p:
            found = found * (torch.rand(len(found), 1, device=found.device) >= p)
        return found

    def encode(self, x: Tensor, c_noise: Tensor, cond: Cond) -> tuple[Tensor, ...]:
        dtype, skips = autocast_type(x.device) or x.dtype, list[Tensor]()
        with without_autocast(x.device):
            embedding = self.embed(c_noise, cond)
            if SCALE in cond:
                frequencies = torch.logspace(-1, 1.5, 32, device=x.device)
                embedding = embedding + self.map_scale(waves(cond[SCALE].float().log1p(), frequencies))
            embedding = F.silu(embedding)
            aux = h = x.to(dtype, memory_format=torch.channels_last)
            for name, layer in self.enc.items():
                if "_aux_" in name:                        # a pyramid of the input beside the blocks (NCSN++)
                    h = skips[-1] = aux = (h + layer(aux)) * self.style.skip_scale
                else:
                    h = layer(h) if name.endswith("_conv") else layer(h, embedding)
                    skips.append(h)
        return h, embedding, *skips[:-1]

    def decode(self, state: tuple[Tensor, ...]) -> Tensor:
        h, embedding, *skips = state
        skips.append(h)
        with without_autocast(h.device):
            for name, layer in self.dec.items():
                if "_aux_" in name:
                    continue
                h = layer(torch.cat([h, skips.pop()], dim=1) if "_block" in name else h, embedding)
            return self.predict(h)

    def taps(self, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The features after the last block of each resolution, the finest first; the last is the bottleneck."""
        per_level = self.config.num_blocks + 1
        return *(state[1 + per_level * (i + 1)] for i in range(len(self.config.channel_mult) - 1)), state[0]


def scale_embedding(channels: int) -> nn.Sequential:
    """Waves of a guidance scale (b, 64) -> (b, channels): zero at first, so that a network ignores the scale."""
    first, last = Linear(64, channels), Linear(channels, channels)
    nn.init.kaiming_uniform_(first.weight)
    nn.init.zeros_(last.weight)
    return nn.Sequential(first, nn.SiLU(), last)


def autocast_type(device: torch.device) -> torch.dtype | None:
    """What autocast computes in, None where it is off."""
    kind = device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else None


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Every layer computes in the type of its input."""
    return torch.autocast(device.type, enabled=False) if autocast_type(device) else nullcontext()
