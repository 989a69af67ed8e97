"""What a network of the family is made of: the keys of the published configurations, completed and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from dmd2cli.errors import UserError, suggest

ADM, SONG = "DhariwalUNet", "SongUNet"
SIGMA_DATA = 0.5

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    ADM: {"model_channels": 192, "channel_mult": (1, 2, 3, 4), "num_blocks": 3, "attn_resolutions": (32, 16, 8)},
    SONG: {"model_channels": 128, "channel_mult": (1, 2, 2, 2), "num_blocks": 4, "attn_resolutions": (16,)},
}
"""What a published file means by a key that it leaves out."""

OUTSIDE: Mapping[str, Any] = {
    "use_fp16": (False, True),                             # precision is the run's business
    "sigma_min": (0, 0.0),
    "sigma_max": (float("inf"), "inf"),
    "sigma_data": (SIGMA_DATA,),
}
"""Keys of the preconditioning around the network, and the values under which a network here is the same."""

CHOICES: Mapping[str, tuple[str, ...]] = {
    "model_type": (ADM, SONG),
    "embedding_type": ("positional", "fourier"),
    "encoder_type": ("standard", "residual"),
    "decoder_type": ("standard",),
}


@dataclass(frozen=True)
class Config:
    """Sizes of a network. ADM is model_type DhariwalUNet; DDPM++ and NCSN++ are both SongUNet."""

    img_resolution: int
    model_type: str
    model_channels: int
    channel_mult: tuple[int, ...]
    """Channels of each resolution, as multiples of model_channels."""
    num_blocks: int
    """Residual blocks per resolution of the encoder; the decoder has one more."""
    attn_resolutions: tuple[int, ...]
    img_channels: int = 3
    label_dim: int = 0
    """Classes; 0 for an unconditional network."""
    channel_mult_emb: int = 4
    dropout: float = 0.0
    label_dropout: float = 0.0
    """Probability with which a label is hidden in training."""
    augment_dim: int = 0
    """Length of the augmentation labels (Karras et al. 2022, App. F.2); 0 for none."""
    embedding_type: str = "positional"
    channel_mult_noise: int = 1
    encoder_type: str = "standard"
    decoder_type: str = "standard"
    resample_filter: tuple[int, ...] = (1, 1)

    @property
    def embedding(self) -> int:
        """Length of the embedding of noise level and label."""
        return self.model_channels * self.channel_mult_emb

    @property
    def bottleneck(self) -> tuple[int, int]:
        """(channels, side) where the encoder ends."""
        return self.model_channels * self.channel_mult[-1], self.img_resolution >> (len(self.channel_mult) - 1)

    @property
    def json(self) -> dict[str, Any]:
        """All keys as JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def read(found: Mapping[str, Any], where: str) -> Config:
    """A configuration from published keys. Raises UserError, headed by `where`, for one that is not known here."""
    kind = found.get("model_type", ADM)
    for key, choices in CHOICES.items():
        if found.get(key, choices[0]) not in choices:
            raise UserError(f"{where}: {key} {found[key]!r} is not supported; choose from {', '.join(choices)}")
    known = {field.name for field in fields(Config)}
    for key in sorted(found.keys() - known):
        if key not in OUTSIDE:
            raise UserError(f"{where}: unknown key {key!r} of a network configuration{suggest(key, known)}")
        if found[key] not in OUTSIDE[key]:
            raise UserError(f"{where}: {key} = {found[key]!r} is not supported; only {OUTSIDE[key][0]} is")
    if "img_resolution" not in found:
        raise UserError(f"{where}: the network configuration lacks img_resolution; was this file converted?")
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items() if k in known}
    return Config(**{**DEFAULTS[kind], "model_type": kind, **given})


def differing(one: Config, other: Config) -> list[str]:
    """Keys in which two networks differ; dropout is none of them, because it has no weights."""
    skip = ("dropout", "label_dropout")
    return [f.name for f in fields(Config) if f.name not in skip and getattr(one, f.name) != getattr(other, f.name)]
