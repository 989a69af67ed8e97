"""Teachers of the EDM family (Karras et al. 2022): CIFAR-10, ImageNet-64, FFHQ-64, AFHQv2-64, and tiny ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dmd2_plugins.edm.config import SIGMA_DATA, Config, read
from dmd2_plugins.edm.network import UNITS, network, unfilled
from dmd2_plugins.edm.presets import find
from dmd2_plugins.edm.weights import load, locate, missing
from dmd2cli.core import weighting
from dmd2cli.core.denoiser import Cond, Preconditioned
from dmd2cli.core.heads import conv_head
from dmd2cli.errors import UserError
from dmd2cli.protocols import Raw, Teacher

FP16 = "networks of the EDM family diverge in it (DMD2's authors, on ImageNet)"


def teacher(
    preset: str | None = None,
    weights: str | None = None,
    repo: str | None = None,
    file: str | None = None,
    revision: str | None = None,
    seed: int = 0,
    skeleton: Mapping[str, Any] | None = None,
) -> Teacher:
    """weights: a file that `dmd2 convert` made. repo, file, revision: one in the local Hugging Face cache instead.

    preset: the network that it must hold; None for that which it holds. seed: of the random weights of a tiny preset,
    where no others are given. An empty skeleton is the preset's network without its weights.
    """
    if skeleton:
        config = read(skeleton.get("config", {}), "student")
        return wrap(unfilled(config), config, skeleton)
    path = locate(weights, repo, file, revision)
    if preset is None:
        if path is None:
            raise UserError("the edm teacher needs weights, a file of `dmd2 convert`, or a preset such as imagenet64")
        denoiser, config, found = load(path, None, None)
        return wrap(denoiser, config, {**found, "config": config.json})
    asked, details = find(preset), {"family": "edm", "preset": preset}
    if skeleton is not None or (path is None and asked.file is None):
        made = {**details, "config": asked.config.json, "source": f"random weights, seed {seed}"}
        return wrap(network(asked.config, seed), asked.config, made)
    if path is None:
        raise missing(preset, str(asked.file))
    denoiser, config, found = load(path, preset, asked)
    return wrap(denoiser, config, {**found, **details, "config": config.json})


def encode(raw: Sequence[Raw], classes: int) -> tuple[Cond, Cond]:
    """Labels as one-hot rows; None, like the null condition, is a row of zeros.

    An unconditional network has no conditions, and takes no notice of the labels that its data may carry.
    """
    allowed = f"has the classes 0 to {classes - 1}" if classes else "is unconditional"
    rows = torch.zeros(len(raw), classes)
    for i, label in enumerate(raw):
        if label is None:
            continue
        if not isinstance(label, int) or (classes and not 0 <= label < classes):
            raise UserError(f"label {label!r}: this teacher {allowed}")
        if classes:
            rows[i, label] = 1.0
    return ({"label": rows}, {"label": torch.zeros_like(rows)}) if classes else ({}, {})


def to_uint8(x: Float[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 h w"]:
    """Model units [-1, 1] to 0...255, truncated as in the DMD2 release; anything outside is clipped."""
    return ((x + 1) * 127.5).clamp(0, 255).to(torch.uint8)


def unchanged(x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Samples are pixels already."""
    return x


def guided_network(denoiser: Preconditioned, config: Config) -> Preconditioned:
    """A copy of the denoiser that reads the guidance scale and ignores it at first."""
    made = network(config, guided=True)
    made.load_state_dict(denoiser.state_dict(), strict=False)               # lacks the embedding of the scale alone
    return made


def wrap(denoiser: Preconditioned, config: Config, details: Mapping[str, Any]) -> Teacher:
    """A denoiser of this family as a Teacher."""
    return Teacher(
        denoiser=denoiser.eval().requires_grad_(False),
        schedule=denoiser.schedule,
        shape=(config.img_channels, config.img_resolution, config.img_resolution),
        weighting=partial(weighting.edm, sigma_data=SIGMA_DATA),
        encode=partial(encode, classes=config.label_dim),
        decode=to_uint8,
        guided_network=partial(guided_network, denoiser, config) if config.label_dim else None,
        head=partial(conv_head, *config.bottleneck),
        decoders={"full": unchanged},
        conditions=tuple(range(config.label_dim)),
        details=details,
        units=UNITS,
        fp16=FP16,
    )
