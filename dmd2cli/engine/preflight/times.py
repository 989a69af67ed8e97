"""Times for a student: where the teacher's one-step prediction has most to decide, and which calls are wasted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from dmd2cli.core.noise import Discrete, NoiseSchedule
from dmd2cli.doctor.finding import Finding
from dmd2cli.engine.health.health import LEVELS
from dmd2cli.engine.preflight.reading import Reading, fitted
from dmd2cli.engine.preflight.subject import Subject

CURVE = (*LEVELS, 10.0, 20.0)
"""Noise levels, in standard deviations of the data, at which is measured what a prediction leaves open."""
SEES, KNOWS = 0.9, 0.05
"""Shares that are open: above the first the input is as good as pure noise, below the second another call has nothing
left to decide."""
NOISE = 0.98
"""The share from which on a call repeats the first one."""
STEPS = (1, 2, 4)


@dataclass(frozen=True)
class Open:
    """What one prediction leaves open at one noise level."""

    noise: float
    """sigma / alpha in standard deviations of the data."""
    t: float
    share: float
    """Squared error of the prediction, over that from the most noise there is."""


def curve(s: Subject, reading: Reading) -> list[Open]:
    """By rising noise; levels beyond the schedule's last are there once."""
    levels = {level.t: level for level in reversed(fitted(reading, s, CURVE).levels)}
    most = max(level.left for level in levels.values())
    return [Open(one.noise, one.t, one.left / most) for one in sorted(levels.values(), key=lambda one: one.noise)]


def noise_at(found: Sequence[Open], share: float) -> float:
    """The noise, in standard deviations of the data, at which a share is open; below the levels as its root."""
    for a, b in pairwise(found):
        if a.share <= share <= b.share:
            part = (share - a.share) / max(b.share - a.share, 1e-9)
            return math.exp(math.log(a.noise) + part * (math.log(b.noise) - math.log(a.noise)))
    return found[0].noise * math.sqrt(share / found[0].share) if found[0].share > share else found[-1].noise


def share_at(found: Sequence[Open], noise: float) -> float:
    """The inverse: the share that is open at some noise."""
    for a, b in pairwise(found):
        if a.noise <= noise <= b.noise:
            return a.share + (b.share - a.share) * math.log(noise / a.noise) / math.log(b.noise / a.noise)
    return found[0].share * (noise / found[0].noise) ** 2 if noise < found[0].noise else found[-1].share


def proposed(found: Sequence[Open], schedule: NoiseSchedule, std: float, steps: int) -> list[float]:
    """1, and then equal steps in log-SNR from where the teacher sees something to where it knows all."""
    high, low = noise_at(found, SEES), noise_at(found, KNOWS)
    ratios = torch.tensor([std * high * (low / high) ** (k / steps) for k in range(1, steps)], dtype=torch.float64)
    times = [1.0]
    for t in schedule.time(ratios).tolist():
        n = len(schedule.alphas_cumprod) if isinstance(schedule, Discrete) else 1000
        if 0 < (near := round(t * n) / n) < times[-1]:
            times.append(near)
    return times


def log_snr(schedule: NoiseSchedule, times: Sequence[float]) -> list[float | None]:
    """ln (alpha / sigma)^2 at some times; None where alpha is 0."""
    pairs = zip(*(part.tolist() for part in schedule(torch.tensor(times, dtype=torch.float64))), strict=True)
    return [2 * math.log(alpha / sigma) if alpha > 0 else None for alpha, sigma in pairs]


def wasted(found: Sequence[Open], schedule: NoiseSchedule, std: float, times: Sequence[float]) -> list[Finding]:
    """Calls after the first whose input is as good as pure noise, or in which nothing is left to decide."""
    for t, logarithm in list(zip(times, log_snr(schedule, times), strict=True))[1:]:
        if logarithm is None:
            continue
        share = share_at(found, math.exp(-logarithm / 2) / std)
        if KNOWS <= share <= NOISE:
            continue
        bound = NOISE if share > KNOWS else KNOWS
        says = f"at student time {t:g} one prediction leaves {share:.1%} open of what pure noise leaves: "
        says += "the call repeats the first" if share > KNOWS else "nothing is left to decide"
        cause = "times that do not suit the schedule, or its timestep shift"
        change = f"student.times={shown(proposed(found, schedule, std, len(times)))}"
        return [Finding("times", "open", share, bound, says, cause, [change])]
    return []


def shown(times: Sequence[float]) -> str:
    """As in a recipe."""
    return "[" + ",".join(f"{t:g}" for t in times) + "]"
