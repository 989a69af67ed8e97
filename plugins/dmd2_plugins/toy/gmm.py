"""The toy teacher: a Gaussian mixture whose score is known, and networks that have to learn its generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from dmd2_plugins.toy.mixture import Exact, Mixture, mixture
from dmd2_plugins.toy.mlp import MLP
from dmd2_plugins.toy.picture import pixels, to_uint8
from dmd2cli.core import weighting
from dmd2cli.core.denoiser import Cond, Preconditioned
from dmd2cli.core.heads import linear_head
from dmd2cli.core.noise import Discrete, Karras, NoiseSchedule, RectifiedFlow, diffuse, scales
from dmd2cli.core.objective import denoising
from dmd2cli.core.parametrization import edm
from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError
from dmd2cli.protocols import Example, Raw, Teacher

RATIO_MAX = 1e3
"""Where the networks' clock stops: sigma / alpha is infinite at the start of a flow."""


def schedules(sigma_max: float) -> dict[str, NoiseSchedule]:
    """The three families by name."""
    return {"edm": Karras(sigma_max=sigma_max), "ddpm": Discrete.linear(), "flow": RectifiedFlow()}


def c_noise(t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """EDM's private clock log(sigma / alpha) / 4 (Karras et al. 2022, Table 1), finite for every schedule."""
    alpha, sigma = schedule(t)
    return (sigma / alpha).clamp(max=RATIO_MAX).log() / 4


def network(found: Mixture, schedule: NoiseSchedule, width: int, depth: int, seed: int) -> Preconditioned:
    """An untrained denoiser, EDM-preconditioned; its weights are a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mlp = MLP(width, depth, found.classes)
    return Preconditioned(mlp, schedule, edm(found.data_std), partial(c_noise, schedule=schedule))


def fit(net: Preconditioned, exact: Exact, found: Mixture, steps: int, seed: int, batch: int = 256) -> None:
    """Regress the network on the exact unconditional denoiser, [DMD] Eq. 6 with x_hat for its target."""
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, fused=True)
    for step in range(steps):
        rng = Rng(seed, step)
        x, modes = found.draw(batch, rng.generator("x", torch.device("cpu")))
        t, cond = rng.uniform("t", x), encode(found.groups[modes].tolist(), found.classes)[0] if found.classes else {}
        x_t = diffuse(x, t, net.schedule, rng.normal("eps", x))
        weight = weighting.edm(*scales(net.schedule, t, x), found.data_std).float()
        denoising(net(x_t, t, cond), exact(x_t, t, cond), weight).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()


def encode(raw: Sequence[Raw], classes: int) -> tuple[Cond, Cond]:
    """Labels as one-hot rows, None as a row of zeros; no conditions at all for an unconditional mixture."""
    for label in raw:
        if label is not None and (not isinstance(label, int) or not 0 <= label < classes):
            allowed = f"the classes 0 to {classes - 1}" if classes else "no classes"
            raise UserError(f"label {label!r}: this mixture has {allowed}")
    if not classes:
        return {}, {}
    rows = torch.zeros(len(raw), classes)
    for row, label in zip(rows, raw, strict=True):
        if label is not None:
            row[int(label)] = 1.0
    return {"label": rows}, {"label": torch.zeros_like(rows)}


def teacher(
    layout: str = "grid25",
    std: float = 0.05,
    schedule: Literal["edm", "ddpm", "flow"] = "edm",
    sigma_max: float = 10.0,
    classes: int = 0,
    width: int = 128,
    depth: int = 3,
    pretrain_steps: int = 300,
    seed: int = 0,
    skeleton: Mapping[str, Any] | None = None,
) -> Teacher:
    """The exact denoiser of a mixture, and an MLP fitted to it for pretrain_steps as what students start from.

    sigma_max: of the edm schedule. seed: of the MLP's weights and of its fitting.
    """
    if skeleton is not None:
        return teacher(**{**skeleton, "pretrain_steps": 0})
    details = {"layout": layout, "std": std, "schedule": schedule, "sigma_max": sigma_max, "classes": classes}
    found, clock = mixture(layout, std, classes), schedules(sigma_max)[schedule]
    denoiser, net = Exact(found, clock), network(found, clock, width, depth, seed)
    fit(net, denoiser, found, pretrain_steps, seed)
    return Teacher(
        denoiser=denoiser.eval(),
        schedule=clock,
        shape=(2,),
        weighting=partial(weighting.edm, sigma_data=found.data_std),
        encode=partial(encode, classes=classes),
        decode=partial(to_uint8, axis=pixels(found)),
        head=partial(linear_head, width, width),
        network=net,
        conditions=tuple(range(classes)),
        details={**details, "width": width, "depth": depth},
    )


class Draws:
    """Dataset: `size` fixed samples of a mixture, item i a function of (i, size, seed), labelled if it has classes."""

    def __init__(
        self, layout: str = "grid25", std: float = 0.05, classes: int = 0, size: int = 20_000, seed: int = 0
    ) -> None:
        if size < 1:
            raise UserError(f"size must be at least 1, got {size}")
        found = mixture(layout, std, classes)
        self.x, modes = found.draw(size, Rng(seed, 0).generator("draws", torch.device("cpu")))
        self.labels: list[Raw] = found.groups[modes].tolist() if classes else [None] * size

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Example:
        return Example(self.x[i], self.labels[i])
