"""One signal as a picture: a line for each run, the doctor's bounds, the reference band. Lengths are in SVG units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dmd2cli.doctor.record import RECENT
from dmd2cli.report.axis import Axis, spanning
from dmd2cli.report.curve import Array, Curve
from dmd2cli.report.reference import Band

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 10, 24
LETTER = 10
"""Room for the letters of runs, right of the plot, beside the margin."""
PITCH = 11
"""Least distance of two letters."""


@dataclass(frozen=True)
class Line:
    """Of one run."""

    letter: str
    """"" where there is one run."""
    number: int
    """Which colour and dashes it has."""
    path: str
    smooth: str
    """The smoothed line; "" where there is none."""
    values: str
    """What is drawn, for the script: "step,value step,value ..."."""
    newest: str
    """The newest finite value."""
    step: str
    """Where that is; "" if there is none."""
    lost: int
    """Values that were not finite."""
    end: float
    """Height of the letter."""

    @property
    def said(self) -> str:
        """The newest value and its step."""
        return f"{self.newest} at step {self.step}" if self.step else self.newest


@dataclass(frozen=True)
class Bound:
    """A threshold."""

    y: float
    label: str
    top: float
    bottom: float
    """Of the forbidden part."""


@dataclass(frozen=True)
class Chart:
    """Ready to be written down."""

    name: str
    title: str
    words: str
    lines: Sequence[Line]
    bounds: Sequence[Bound]
    band: str
    """The area of the reference, as a path; "" where there is none."""
    median: str
    x: Axis
    y: Axis

    @property
    def judged(self) -> float:
        """Where the part begins that the doctor goes by."""
        return self.x.at(self.x.high * (0.0 if self.name == "critic/lag" else 1 - RECENT))

    @property
    def alt(self) -> str:
        """What it shows, for those who do not see it."""
        newest = "; ".join(f"{'run ' + line.letter + ': ' if line.letter else ''}{line.said}" for line in self.lines)
        bounds = "".join(f", bound {bound.label}" for bound in self.bounds)
        return f"{self.title} over steps 0 to {self.x.high:.0f}{bounds}. Newest: {newest}."


@dataclass(frozen=True)
class Drawn:
    """A curve of a run, before it is a line."""

    letter: str
    number: int
    curve: Curve


def chart(
    name: str, title: str, words: str, drawn: Sequence[Drawn], limits: tuple[float, float], band: Band | None,
    last: float, length: int, buckets: int,
) -> Chart:  # fmt: skip
    """The chart of a signal. last: the right end, in steps. length: run.steps, what the band's shares are of."""
    room = LETTER if any(one.letter for one in drawn) else 0
    x = Axis(0.0, max(last, 1.0), LEFT, WIDTH - RIGHT - room)
    seen = None if band is None else inside(band, length, last)
    shown = [one.curve.thinned(buckets) for one in drawn]
    limited = [bound for bound in limits if math.isfinite(bound)]
    of_band = [] if seen is None else [seen.low, seen.high]
    y = spanning(np.concatenate([*(c.value for c in shown), *of_band]), limited, HEIGHT - BOTTOM, TOP)
    lines = [line(one, curve, x, y, buckets) for one, curve in zip(drawn, shown, strict=True)]
    (lowest, highest), bounds = limits, list[Bound]()
    if math.isfinite(lowest):
        bounds.append(Bound(y.at(lowest), f"{lowest:.3g}", y.at(lowest), y.start))
    if math.isfinite(highest):
        bounds.append(Bound(y.at(highest), f"{highest:.3g}", y.end, y.at(highest)))
    area, middle = ("", "") if seen is None else shape(seen, length, x, y)
    return Chart(name, title, words, apart(lines), bounds, area, middle, x, y)


def line(drawn: Drawn, shown: Curve, x: Axis, y: Axis, buckets: int) -> Line:
    """A run's line."""
    smooth = drawn.curve.smoothed(buckets)
    whole = drawn.curve
    good = np.flatnonzero(np.isfinite(whole.value))
    newest, step = "never finite", ""
    end = (y.start + y.end) / 2
    if len(good):
        value = float(whole.value[good[-1]])
        newest, step, end = f"{value:.4g}", f"{whole.step[good[-1]]:,.0f}", y.at(value)
    values = " ".join(f"{s:.0f},{v:.4g}" for s, v in zip(shown.step, shown.value, strict=True) if math.isfinite(v))
    lost = len(whole) - len(good)
    drawn_smooth = "" if smooth is None else path(smooth, x, y)
    return Line(drawn.letter, drawn.number, path(shown, x, y), drawn_smooth, values, newest, step, lost, end)


def path(curve: Curve, x: Axis, y: Axis) -> str:
    """An SVG path through the finite values, broken where one is not; a value alone is a dot."""
    parts, pen = list[str](), False
    places = zip(x(curve.step), y(curve.value), np.isfinite(curve.value), strict=True)
    for across, down, finite in places:
        if finite:
            parts.append(f"{'L' if pen else 'M'}{across:.1f},{down:.1f}{'' if pen else 'h0'}")
        pen = bool(finite)
    return "".join(parts)


def inside(band: Band, length: int, last: float) -> Band | None:
    """The part of a band up to a step; None if nothing of it is left."""
    kept = band.share * length <= last * (1 + 1e-9)
    return Band(band.share[kept], band.low[kept], band.median[kept], band.high[kept]) if kept.any() else None


def shape(band: Band, length: int, x: Axis, y: Axis) -> tuple[str, str]:
    """(area, median) of a band, as paths."""
    across, high, low = x(band.share * length), y(band.high), y(band.low)
    upper, lower = joined(across, high), joined(across[::-1], low[::-1])
    return f"M{upper}L{lower}Z", f"M{joined(across, y(band.median))}"


def joined(across: Array, down: Array) -> str:
    """Points of a path."""
    return "L".join(f"{a:.1f},{d:.1f}" for a, d in zip(across, down, strict=True))


def apart(lines: Sequence[Line]) -> list[Line]:
    """The same lines, their letters moved apart so that each can be read."""
    order, found, free = sorted(range(len(lines)), key=lambda i: lines[i].end), list(lines), float(TOP)
    step = min(PITCH, (HEIGHT - TOP - BOTTOM) / max(1, len(lines)))
    for place, i in enumerate(order):
        most = HEIGHT - BOTTOM - step * (len(order) - 1 - place)
        free = max(free, min(lines[i].end, most))
        found[i] = replace(lines[i], end=round(free, 1))
        free += step
    return found
