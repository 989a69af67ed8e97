"""The digits teacher: an EDM-preconditioned U-Net, trained by recipes/digits-teacher.yaml and shipped here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dmd2_plugins.digits.data import CLASSES, to_uint8
from dmd2_plugins.digits.unet import Block, UNet
from dmd2cli.core import weighting
from dmd2cli.core.denoiser import Cond, Preconditioned
from dmd2cli.core.heads import conv_head
from dmd2cli.core.noise import Karras
from dmd2cli.core.parametrization import edm
from dmd2cli.errors import UserError
from dmd2cli.protocols import Raw, Teacher
from dmd2cli.weights import load_weights, read_metadata

SIGMA_DATA = 0.75
"""Standard deviation of the digits in [-1, 1] is 0.7521."""

SIGMA_MAX = 20.0
"""EDM's 80 scaled to 64 pixels: about sigma_data times the square root of the dimension, three times over."""

WEIGHTS = Path(__file__).with_name("teacher.safetensors")


def encode(raw: Sequence[Raw]) -> tuple[Cond, Cond]:
    """Labels 0...9 as one-hot rows; None, like the null condition, is a row of zeros."""
    for label in raw:
        if label is not None and (not isinstance(label, int) or not 0 <= label < CLASSES):
            raise UserError(f"label {label!r}: the digits have the classes 0 to {CLASSES - 1}")
    index = torch.tensor([CLASSES if label is None else int(label) for label in raw], dtype=torch.int64)
    rows = torch.eye(CLASSES + 1)[index, :CLASSES]
    return {"label": rows}, {"label": torch.zeros_like(rows)}


def to_rgb(x: Float[Tensor, "b 1 8 8"]) -> Float[Tensor, "b 3 8 8"]:
    """Grey to RGB with its gradient; neither clipped nor rounded."""
    return x.expand(-1, 3, -1, -1)


def c_noise(t: Tensor, schedule: Karras) -> Tensor:
    """EDM's private clock, log(sigma) / 4 (Karras et al. 2022, Table 1)."""
    return schedule(t)[1].log() / 4


def network(channels: Sequence[int], guided: bool = False) -> Preconditioned:
    """An untrained denoiser of this family; guided: one that reads the guidance scale."""
    schedule = Karras(sigma_max=SIGMA_MAX)
    unet = UNet(tuple(channels), guided=guided).to(memory_format=torch.channels_last)
    return Preconditioned(unet, schedule, edm(SIGMA_DATA), partial(c_noise, schedule=schedule))


def teacher(weights: str | None = None, skeleton: Mapping[str, Any] | None = None) -> Teacher:
    """weights: a safetensors file of `dmd2 pretrain recipes/digits-teacher.yaml`; default: the shipped one."""
    path = Path(weights) if weights else WEIGHTS
    details = skeleton or json.loads(read_metadata(path).get("details", "{}"))
    if details.get("family") != "digits":
        raise UserError(f"{path}: not a digits teacher; make one with `dmd2 pretrain recipes/digits-teacher.yaml`")
    denoiser = network(details["channels"])
    if skeleton is None:
        load_weights(denoiser, path)
    return wrap(denoiser, details)


def guided_network(denoiser: Preconditioned, channels: Sequence[int]) -> Preconditioned:
    """A copy of the denoiser that reads the guidance scale and ignores it at first."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = network(channels, guided=True)
    made.load_state_dict(denoiser.state_dict(), strict=False)               # lacks the embedding of the scale alone
    return made


def wrap(denoiser: Preconditioned, details: Mapping[str, Any]) -> Teacher:
    """A denoiser of this family as a Teacher."""
    return Teacher(
        denoiser=denoiser.eval().requires_grad_(False),
        schedule=denoiser.schedule,
        shape=(1, 8, 8),
        weighting=partial(weighting.edm, sigma_data=SIGMA_DATA),
        encode=encode,
        decode=to_uint8,
        guided_network=partial(guided_network, denoiser, details["channels"]),
        head=partial(conv_head, details["channels"][-1], 2),
        decoders={"full": to_rgb},
        conditions=tuple(range(CLASSES)),
        details=details,
        units=(Block,),
        lora_targets=("conv1", "conv2", "affine", "embed.0", "embed.2"),
    )
