"""A class-conditional teacher of pictures of bars: a small network, fitted when it is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from dmd2cli.core import weighting
from dmd2cli.core.denoiser import Cond, Preconditioned
from dmd2cli.core.heads import linear_head
from dmd2cli.core.noise import Karras, diffuse, scales
from dmd2cli.core.objective import denoising
from dmd2cli.core.parametrization import edm
from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError
from dmd2cli.protocols import Raw, Teacher
from torch import Tensor, nn

from dmd2_example.bars import CLASSES, SIDE, bars

SIGMA_DATA = 0.66
"""Standard deviation of the pictures."""
SIGMA_MAX = 20.0
"""Noise level at t = 1: well above the distance between two pictures."""


class Backbone(nn.Module):
    """(x, c_noise, cond) -> F, in two halves: GAN heads read what encode gives first, (b, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(SIDE**2 + 1 + CLASSES, width)
        self.middle, self.last = nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, SIDE**2)

    def encode(self, x: Tensor, c_noise: Tensor, cond: Cond) -> tuple[Tensor, ...]:
        """The features, from pixels, the noise level and the class."""
        h = torch.cat([x.flatten(1), c_noise[:, None].to(x.dtype), cond["label"]], dim=1)
        h = nn.functional.silu(self.first(h))
        return (h + nn.functional.silu(self.middle(h)),)

    def decode(self, state: tuple[Tensor, ...]) -> Tensor:
        """The raw prediction (b, 1, 8, 8)."""
        pixels: Tensor = self.out(state[0] + nn.functional.silu(self.last(state[0])))
        return pixels.view(-1, 1, SIDE, SIDE)


def encode(raw: Sequence[Raw]) -> tuple[Cond, Cond]:
    """Labels as one-hot rows; None, like the null condition, is a row of zeros."""
    for label in raw:
        if label is not None and label not in range(CLASSES):
            raise UserError(f"label {label!r}: these pictures have the classes 0 to {CLASSES - 1}")
    index = torch.tensor([CLASSES if label is None else int(label) for label in raw], dtype=torch.int64)
    rows = torch.eye(CLASSES + 1)[index, :CLASSES]
    return {"label": rows}, {"label": torch.zeros_like(rows)}


def decode(x: Tensor) -> Tensor:
    """[-1, 1] -> uint8 (b, 3, 8, 8)."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1)


def to_rgb(x: Tensor) -> Tensor:
    """Pixels in [-1, 1] (b, 3, 8, 8) with their gradient."""
    return x.expand(-1, 3, -1, -1)


def c_noise(t: Tensor, schedule: Karras) -> Tensor:
    """EDM's private clock, log(sigma) / 4 (Karras et al. 2022, Table 1)."""
    return schedule(t)[1].log() / 4


def fit(denoiser: Preconditioned, steps: int, seed: int, batch: int = 128, lr: float = 8e-3) -> None:
    """Denoise the bars, [DMD] Eq. 6; one in ten without its label, for guidance. A real teacher loads its weights."""
    optimiser = torch.optim.AdamW(denoiser.parameters(), lr)
    pictures, labels = bars(range(512), seed)
    known, like = encode(labels)[0]["label"], torch.empty(batch, 1)
    for step in range(steps):
        rng = Rng(seed, step)
        rows = (rng.uniform("rows", like) * len(pictures)).long()
        kept = (rng.uniform("drop", like) >= 0.1).float()[:, None]
        x, sigma = pictures[rows], (1.2 * rng.normal("sigma", like)[:, 0]).exp()
        t = denoiser.schedule.time(sigma).float()
        x_hat = denoiser(diffuse(x, t, denoiser.schedule, rng.normal("eps", x)), t, {"label": known[rows] * kept})
        weight = weighting.edm(*scales(denoiser.schedule, t, x), SIGMA_DATA).float()
        optimiser.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimiser.zero_grad()
        denoising(x_hat, x, weight).backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def teacher(width: int = 128, steps: int = 600, seed: int = 0, skeleton: Mapping[str, Any] | None = None) -> Teacher:
    """width: of the layers. steps, seed: of the fitting.

    skeleton: the details of a student, whose weights are about to replace these: nothing is fitted.
    """
    width = (skeleton or {}).get("width", width)
    schedule = Karras(sigma_max=SIGMA_MAX)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = Preconditioned(Backbone(width), schedule, edm(SIGMA_DATA), partial(c_noise, schedule=schedule))
    if skeleton is None:
        fit(denoiser, steps, seed)
    return Teacher(
        denoiser=denoiser.eval().requires_grad_(False),
        schedule=schedule,
        shape=(1, SIDE, SIDE),
        weighting=partial(weighting.edm, sigma_data=SIGMA_DATA),
        encode=encode,
        decode=decode,
        head=partial(linear_head, width, width),
        decoders={"full": to_rgb},
        conditions=tuple(range(CLASSES)),
        details={"width": width},
    )
