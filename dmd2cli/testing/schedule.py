"""Checks of noise schedules and of weightings, which are functions of one."""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import signature

import torch
from torch import Tensor

from dmd2cli.core.noise import Discrete, Karras, NoiseSchedule, RectifiedFlow, scales
from dmd2cli.testing.said import say
from dmd2cli.testing.setting import ROWS


def check_schedule(schedule: NoiseSchedule) -> None:
    """SNR falls from data to noise, and time() inverts the clock on the schedule's own grid."""
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha, sigma = schedule(t)
    say(alpha.shape == sigma.shape == t.shape, "schedule(t) must give alpha and sigma of the shape of t")
    say((alpha >= 0).all() and (sigma >= 0).all(), "alpha and sigma must not be negative")
    say((alpha / sigma)[1:].diff().le(0).all(), "SNR is not monotone: alpha / sigma must fall as t rises from data")
    say(0 < schedule.prior_std < math.inf, "prior_std must be the positive std of the pure-noise input")
    grid = schedule.clock(10)
    say(len(grid) == 10 and grid[0] == 1 and grid.diff().lt(0).all(), "clock(n) must give n falling times from 1 on")
    alpha, sigma = schedule(grid)
    say((alpha / sigma).diff().gt(0).all(), "SNR is not monotone: it must differ between the times of clock(n)")
    back = schedule.time(sigma / alpha)
    say(torch.allclose(back, grid.to(back), atol=1e-6), f"time(sigma / alpha) must invert the clock: {grid} -> {back}")


def check_weighting(weighting: Callable[..., Tensor]) -> None:
    """A denoising weight (alpha, sigma) or a DM weight (x, x_real, alpha, sigma): positive, finite, broadcastable."""
    for schedule in (Karras(), Discrete.linear(), RectifiedFlow()):
        x, t = torch.randn(ROWS, 2, 3).double(), torch.linspace(0.02, 0.98, ROWS).double()
        alpha, sigma = scales(schedule, t, x)
        matching = "x_real" in signature(weighting).parameters
        found = weighting(x, x + 1, alpha, sigma) if matching else weighting(alpha, sigma)
        say(found.shape == (ROWS, 1, 1), f"a weighting must give one weight per sample, (b, 1, ...), not {found.shape}")
        say((found > 0).all() and found.isfinite().all(), f"a weighting must be positive and finite on {schedule}")
