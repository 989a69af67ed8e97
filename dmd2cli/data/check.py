"""What a set of images is like, and what is wrong with it: every image decoded once."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from dmd2cli.data.corrupt import Corrupt
from dmd2cli.data.parts import cut, results
from dmd2cli.data.progress import progress
from dmd2cli.data.sources.source import Source, fingerprint, full_name, pixels

PART = 200
"""Images that a process looks at before it reports."""


@dataclass
class Tally:
    """Counts over some images; tallies of parts add up to that of the whole."""

    n: int = 0
    sizes: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    labels: Counter[int] = field(default_factory=Counter)
    low: int = 255
    high: int = 0
    values: int = 0
    """Of one channel."""
    sums: list[int] = field(default_factory=lambda: [0, 0, 0])
    squares: list[int] = field(default_factory=lambda: [0, 0, 0])
    corrupt: dict[int, Corrupt] = field(default_factory=dict)
    same: dict[str, list[int]] = field(default_factory=dict)
    """Hash of the pixels -> items, if asked for."""

    def add(self, other: Tally) -> None:
        """Take in the counts of another part."""
        self.n, self.values = self.n + other.n, self.values + other.values
        for mine, theirs in ((self.sizes, other.sizes), (self.modes, other.modes)):
            mine.update(theirs)
        self.labels.update(other.labels)
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.sums = [a + b for a, b in zip(self.sums, other.sums, strict=True)]
        self.squares = [a + b for a, b in zip(self.squares, other.squares, strict=True)]
        self.corrupt |= other.corrupt
        for key, items in other.same.items():
            self.same.setdefault(key, []).extend(items)

    def take(self, source: Source, i: int, duplicates: bool) -> None:
        """Count item i. Raises Corrupt if it cannot be read."""
        image = source.image(i)
        found = pixels(image, full_name(source, i))
        self.n += 1
        self.sizes[f"{image.width}x{image.height}"] += 1
        self.modes[image.mode] += 1
        if (label := source.label(i)) is not None:
            self.labels[label] += 1
        self.low, self.high = min(self.low, int(found.min())), max(self.high, int(found.max()))
        wide = found.reshape(-1, 3).astype(np.int64)
        self.values += len(wide)
        self.sums = [a + int(b) for a, b in zip(self.sums, wide.sum(0), strict=True)]
        self.squares = [a + int(b) for a, b in zip(self.squares, (wide**2).sum(0), strict=True)]
        if duplicates:
            self.same.setdefault(hashlib.blake2b(found.tobytes(), digest_size=16).hexdigest(), []).append(i)


def tally(source: Source, duplicates: bool, part: range) -> Tally:
    """The tally of some items."""
    found = Tally()
    for i in part:
        try:
            found.take(source, i, duplicates)
        except Corrupt as err:
            found.corrupt[i] = err
    return found


def check(source: Source, workers: int = 1, duplicates: bool = False) -> dict[str, Any]:
    """The facts about a source, as JSON values. duplicates: look for images of equal pixels."""
    whole, parts = Tally(), cut(len(source), PART)
    with progress("images", len(source)) as more:
        for part, found in results(partial(tally, source, duplicates), parts, workers):
            whole.add(found)
            more(len(part))
    return facts(source, whole) | ({"duplicates": repeated(source, whole)} if duplicates else {})


def facts(source: Source, whole: Tally) -> dict[str, Any]:
    """A tally in words that a person and a script can read."""
    mean = [total / whole.values for total in whole.sums] if whole.n else None
    spread = [math.sqrt(max(0.0, s / whole.values - m * m)) for s, m in zip(whole.squares, mean or (), strict=False)]
    corrupt = [{"name": err.name, "reason": err.reason} for _, err in sorted(whole.corrupt.items())]
    return {
        "path": source.where,
        "format": source.format,
        "images": len(source),
        "usable": whole.n,
        "sizes": dict(whole.sizes.most_common()),
        "modes": dict(whole.modes.most_common()),
        "labels": {str(label): n for label, n in sorted(whole.labels.items())} or None,
        "classes": list(source.classes),
        "range": [whole.low, whole.high] if whole.n else None,
        "mean": [round(value, 3) for value in mean] if mean else None,
        "std": [round(value, 3) for value in spread] or None,
        "corrupt": corrupt,
        "fingerprint": fingerprint(source),
    }


def repeated(source: Source, whole: Tally) -> list[list[str]]:
    """Names of the images that are there more than once, one list for each picture."""
    groups = (sorted(items) for items in whole.same.values() if len(items) > 1)
    return [[source.name(i) for i in items] for items in sorted(groups)]
