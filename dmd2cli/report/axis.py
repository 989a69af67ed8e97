"""From numbers to places in a picture, with ticks at round numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dmd2cli.report.curve import Array

LOGARITHMIC = 50
"""A range of positive values is drawn on a log scale from this ratio of its ends on."""

LARGEST = 1e100
"""What is beyond is drawn at the edge."""


@dataclass(frozen=True)
class Axis:
    """Numbers from low to high, drawn from start to end (user units of the SVG)."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: Array) -> Array:
        """Where values are."""
        low, high = self._scaled(np.array([self.low, self.high]))
        share = (self._scaled(np.asarray(value, dtype=np.float64)) - low) / (high - low)
        return self.start + (self.end - self.start) * np.clip(share, -1, 2)

    def _scaled(self, value: Array) -> Array:
        return np.log10(np.maximum(value, 1e-300)) if self.log else value

    def at(self, value: float) -> float:
        """Where one value is."""
        return round(float(self(np.array([value]))[0]), 1)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """(place, label) of round numbers between the ends, at most so many."""
        from matplotlib.ticker import LogLocator, MaxNLocator

        linear = MaxNLocator(most - 1, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        found = [float(v) for v in linear if self.low <= v <= self.high]
        if self.log:
            powers = LogLocator(numticks=most).tick_values(self.low, self.high)
            inside = [float(v) for v in powers if self.low <= v <= self.high]
            found = inside if len(inside) > 1 else found
        return [(self.at(value), label(value)) for value in found]


def spanning(values: Array, bounds: list[float], start: float, end: float) -> Axis:
    """An axis that shows all finite values and bounds, with a little room; logarithmic where that reads better."""
    shown = np.concatenate([values[np.isfinite(values)], np.array(bounds, dtype=np.float64)]).clip(-LARGEST, LARGEST)
    if not len(shown):
        return Axis(0.0, 1.0, start, end)
    low, high = float(shown.min()), float(shown.max())
    if low > 0 and high / low >= LOGARITHMIC:
        return Axis(low / 1.2, high * 1.2, start, end, log=True)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return Axis(0.0 if 0 <= low <= room else low - room, high + room, start, end)


def label(value: float) -> str:
    """A number as short as it reads well: 0.05, 1.5, 20k, 3M, 1e-05."""
    size = abs(value)
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if unit <= size < 1000 * unit and size >= 10_000:
            return f"{value / unit:g}{suffix}"
    return "0" if size < 1e-12 else f"{value:.6g}"
