"""One way to read a teacher's network, and how well it denoises when it is read so."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from dmd2cli.core import calibration
from dmd2cli.core.denoiser import Cond, Denoiser, bind
from dmd2cli.core.noise import NoiseSchedule, diffuse, scales
from dmd2cli.engine.health.health import LEVELS

if TYPE_CHECKING:
    from dmd2cli.engine.preflight.subject import Subject

WORSE = 1.05
"""Error of a denoiser, over the best linear one's, that is too much: an exact one has 1 under much noise, and is
measured to a few percent on few samples."""
FROM = 0.5
"""Standard deviations of noise from which a teacher's own samples tell something: below, they show the sampler."""
WORST = 1e6
"""What a number that is not finite, or larger, counts as."""


@dataclass(frozen=True)
class Reading:
    """A denoiser, and the schedule by which samples are diffused for it."""

    name: str
    denoiser: Denoiser
    schedule: NoiseSchedule
    kind: str = "configured"
    """output: what the network predicts; noise: the level that it is told; schedule: the levels that there are."""


@dataclass(frozen=True)
class Level:
    """One noise level of one reading."""

    noise: float
    """sigma / alpha in standard deviations of the data."""
    t: float
    error: float
    """Squared error over that of the best linear prediction."""
    slope: float
    left: float
    """Share of the data's variance that the prediction misses: 0 all is known, 1 nothing."""


@dataclass(frozen=True)
class Fit:
    """How well a reading denoises."""

    reading: Reading
    levels: Sequence[Level]

    real: bool = True
    """Whether measured on data, and not on samples of the teacher's own, which tell nothing of the least noise."""

    @property
    def telling(self) -> Sequence[Level]:
        """The levels that it is judged by."""
        return [level for level in self.levels if self.real or level.noise >= FROM]

    @property
    def error(self) -> float:
        """The largest of all levels."""
        return max(level.error for level in self.telling)

    @property
    def slope(self) -> float:
        """The one that is furthest from 0, from FROM on: a small network leaves the least noise where it is."""
        return max((level.slope for level in self.telling if level.noise >= FROM), key=abs)

    @property
    def mean(self) -> float:
        """Geometric mean of the errors."""
        return math.exp(sum(math.log(max(level.error, 1 / WORST)) for level in self.telling) / len(self.telling))


def fitted(reading: Reading, s: Subject, noise: Sequence[float] = LEVELS) -> Fit:
    """How well a reading denoises the samples. noise: levels, in standard deviations of the data."""
    found = list[Level]()
    for level, t, x_t, x_hat in denoised(reading, s, s.cond, noise):
        alpha, sigma = scales(reading.schedule, t, s.x)
        error = calibration.error(s.x, x_t, x_hat, alpha, sigma)
        slope = calibration.slope(s.x, x_t, x_hat, alpha)
        left = (s.x - x_hat).square().mean() / s.x.var()
        found.append(Level(level, float(t[0]), *(finite(value) for value in (error, slope, left))))
    return Fit(reading, found, s.real)


def denoised(
    reading: Reading, s: Subject, cond: Cond, noise: Sequence[float] = LEVELS
) -> Iterator[tuple[float, Tensor, Tensor, Tensor]]:
    """(level, times (b,), x_t, x_hat) of every noise level; the noise is the same for all readings."""
    for level in noise:
        ratio = torch.full((len(s.x),), level * s.std, device=s.x.device)
        t = reading.schedule.time(ratio).clamp(0, 1).to(s.x.dtype)
        x_t = diffuse(s.x, t, reading.schedule, s.noise(f"eps/{level}"))
        yield level, t, x_t, predicted(reading.denoiser, x_t, t, cond, s.rows)


@torch.no_grad()
def predicted(
    denoiser: Denoiser, x_t: Float[Tensor, b *d], t: Float[Tensor, " b"], cond: Cond, rows: int
) -> Float[Tensor, b *d]:
    """One-step predictions, so many rows at once."""
    parts = [slice(i, i + rows) for i in range(0, len(x_t), rows)]
    return torch.cat([bind(denoiser, {k: v[p] for k, v in cond.items()})(x_t[p], t[p]) for p in parts]).float()


def finite(value: Tensor) -> float:
    """A number that can be compared, and written as JSON."""
    return max(-WORST, min(WORST, float(value))) if value.isfinite() else WORST
