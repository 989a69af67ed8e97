"""The published teachers by name, and small ones with random weights for tests and smoke runs."""

from __future__ import annotations

from dataclasses import dataclass

from dmd2_plugins.edm.config import Config, read
from dmd2cli.errors import UserError, suggest

ADM_64 = {"model_type": "DhariwalUNet", "img_resolution": 64, "label_dim": 1000}
VP = {"model_type": "SongUNet", "augment_dim": 9}                                                       # DDPM++
VE = {**VP, "embedding_type": "fourier", "encoder_type": "residual"}                                    # NCSN++
VE |= {"channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1]}
AT_32 = {"img_resolution": 32, "channel_mult": [2, 2, 2]}
AT_64 = {"img_resolution": 64, "channel_mult": [1, 2, 2, 2]}
TINY = {"img_resolution": 16, "model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8]}
TEN = {"label_dim": 10}


@dataclass(frozen=True)
class Preset:
    """A network of the family, and the published file that holds its weights."""

    config: Config
    file: str | None = None
    """None: made from a seed, where no weights are given."""


def preset(keys: dict[str, object], file: str | None = None) -> Preset:
    """A preset from published keys; dropout is 0, as in the release, although teachers were trained with some."""
    return Preset(read(keys, "preset"), file)


PRESETS = {
    "cifar10-cond": preset({**VP, **AT_32, **TEN}, "edm-cifar10-32x32-cond-vp.pkl"),
    "cifar10-uncond": preset({**VP, **AT_32}, "edm-cifar10-32x32-uncond-vp.pkl"),
    "cifar10-cond-ve": preset({**VE, **AT_32, **TEN}, "edm-cifar10-32x32-cond-ve.pkl"),
    "cifar10-uncond-ve": preset({**VE, **AT_32}, "edm-cifar10-32x32-uncond-ve.pkl"),
    "imagenet64": preset(ADM_64, "edm-imagenet-64x64-cond-adm.pkl"),
    "ffhq": preset({**VP, **AT_64}, "edm-ffhq-64x64-uncond-vp.pkl"),
    "ffhq-ve": preset({**VE, **AT_64}, "edm-ffhq-64x64-uncond-ve.pkl"),
    "afhqv2": preset({**VP, **AT_64}, "edm-afhqv2-64x64-uncond-vp.pkl"),
    "afhqv2-ve": preset({**VE, **AT_64}, "edm-afhqv2-64x64-uncond-ve.pkl"),
    "tiny-adm": preset({**ADM_64, **TINY, **TEN}),
    "tiny-ddpmpp": preset({**VP, **TINY, **TEN}),
    "tiny-ncsnpp": preset({**VE, **TINY}),
}


def find(name: str) -> Preset:
    """A preset by name. Raises UserError for another."""
    if name not in PRESETS:
        raise UserError(f"preset '{name}' is not one of the EDM family{suggest(name, PRESETS)}")
    return PRESETS[name]
