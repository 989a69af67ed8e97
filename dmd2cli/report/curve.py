"""A logged number over the steps, made small enough to draw without losing its spikes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dmd2cli.doctor.record import Record

Array = NDArray[np.float64]

MEASURED = ("health/", "validation/", "critic/lag")
"""Begin names of numbers that are measured now and then, and logged again until the next measurement."""
WINDOW = 30
"""The smoothed curve averages over this part of all values."""
ENOUGH = 3 * WINDOW
"""Values of a curve that is worth smoothing."""


@dataclass(frozen=True)
class Curve:
    """Values (n,) at rising steps (n,); NaN where the value was not finite."""

    step: Array
    value: Array

    def __len__(self) -> int:
        return len(self.step)

    @property
    def finite(self) -> Array:
        """The values that are."""
        return self.value[np.isfinite(self.value)]

    def thinned(self, buckets: int) -> Curve:
        """At most two values for each of so many equal parts of the steps: its lowest and its highest, in their order.

        A part without a finite value stays as one NaN: a gap.
        """
        if len(self) <= 2 * buckets:
            return self
        edges = np.linspace(self.step[0], self.step[-1], buckets + 1)[1:-1]
        kept = list[int]()
        for part in np.split(np.arange(len(self)), np.searchsorted(self.step, edges)):
            finite = part[np.isfinite(self.value[part])]
            if len(finite):
                ends = {int(finite[self.value[finite].argmin()]), int(finite[self.value[finite].argmax()])}
                kept += sorted(ends)
            elif len(part):
                kept.append(int(part[0]))
        return Curve(self.step[kept], self.value[kept])

    def smoothed(self, points: int) -> Curve | None:
        """Means over a sliding window of 1 / WINDOW of the values, at so many of them; None for a short curve."""
        good = np.isfinite(self.value)
        if (n := int(good.sum())) < ENOUGH:
            return None
        step, width = self.step[good], max(2, n // WINDOW)
        total = np.concatenate([[0.0], np.cumsum(self.value[good])])
        middle = np.unique(np.linspace(0, n - 1, min(points, n)).round().astype(int))
        first, last = np.maximum(middle - width // 2, 0), np.minimum(middle + width // 2 + 1, n)
        return Curve(step[middle], (total[last] - total[first]) / (last - first))


def curve(run: Record, name: str) -> Curve:
    """Of a signal of a run. A measurement that is repeated in the log counts once, and once more at the end."""
    step, value = (np.array(column, dtype=np.float64) for column in run.columns[name])
    value[~np.isfinite(value)] = np.nan
    if name.startswith(MEASURED) and len(value) > 2:
        fresh = np.concatenate([[True], value[1:] != value[:-1]])
        fresh[-1] = True
        step, value = step[fresh], value[fresh]
    order = np.argsort(step, kind="stable")
    return Curve(step[order], value[order])
