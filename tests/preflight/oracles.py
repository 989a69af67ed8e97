"""Teachers that need no training: networks that know the exact denoiser of a mixture, and predict it in any form."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from dmd2_plugins.toy.gmm import encode
from dmd2_plugins.toy.mixture import Exact, mixture
from dmd2_plugins.toy.picture import pixels, to_uint8
from torch import nn

from dmd2cli.core import parametrization, weighting
from dmd2cli.core.denoiser import Preconditioned
from dmd2cli.core.heads import linear_head
from dmd2cli.core.noise import Discrete, Karras, RectifiedFlow
from dmd2cli.engine.preflight.candidates import x0
from dmd2cli.protocols import Teacher

MIXTURE = mixture("ring8", 0.2, 8)
KARRAS = Karras(sigma_max=20.0)
SCHEDULES = {
    "edm": KARRAS,
    "sd": Discrete.scaled_linear(),
    "sd-linear": Discrete.linear(0.00085, 0.012),
    "ddpm": Discrete.linear(),
    "flow": RectifiedFlow(),
    "flow-3": RectifiedFlow(3.0),
}
ROWS = {
    "eps": parametrization.eps,
    "v": parametrization.v,
    "x0": x0,
    "flow": parametrization.flow,
    "edm": parametrization.edm(MIXTURE.data_std),
}


class Knows(nn.Module):
    """A Backbone: F of the exact denoiser, for a schedule and a row of the table. Its own time is ours in [0, 1]."""

    def __init__(self, schedule, row):
        super().__init__()
        self.exact, self.row = Exact(MIXTURE, schedule), row

    def encode(self, x, c_noise, cond):
        t = c_noise.double()
        c_skip, c_out, c_in = (c[:, None] for c in self.row(*self.exact.schedule(t)))
        x_t = x / c_in
        return ((self.exact(x_t, t, cond) - c_skip * x_t) / c_out,)

    def decode(self, state):
        return state[0]


def oracle(trained: str, row: str, schedule: str | None = None, read: str | None = None, told: float = 1.0) -> Teacher:
    """A network for one schedule and row of the table, configured for these, or for others.

    told: times the noise level that its clock is given; its clock is a time for tables, and for others a noise level.
    """
    own, ours = SCHEDULES[trained], SCHEDULES[schedule or trained]

    def clock(t):
        if isinstance(own, Discrete) and told == 1.0:
            return t
        alpha, sigma = ours(t)
        return own.time(told * sigma / alpha).clamp(0, 1)

    net = Preconditioned(Knows(own, ROWS[row]), ours, ROWS[read or row], clock)
    return Teacher(
        denoiser=net.eval().requires_grad_(False),
        schedule=ours,
        shape=(2,),
        weighting=partial(weighting.edm, sigma_data=MIXTURE.data_std),
        encode=partial(encode, classes=8),
        decode=partial(to_uint8, axis=pixels(MIXTURE)),
        head=partial(linear_head, 2, 8),
        conditions=tuple(range(8)),
    )


def nulled(null) -> Teacher:
    """One whose null condition is another: a function of the conditions of a batch."""
    found = oracle("edm", "edm")

    def encoding(raw):
        cond, _ = encode(raw, 8)
        return cond, null(cond)

    return replace(found, encode=encoding)


def rolled(cond):
    """Every row another row's condition."""
    return {name: torch.roll(value, 1, 0) for name, value in cond.items()}
