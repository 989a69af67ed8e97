"""Numbers that were measured once for each of several seeds, as one: means, and how sure these are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

LEVEL = 0.95
"""Of the intervals."""


def spread(values: Sequence[float], level: float = LEVEL) -> dict[str, Any] | None:
    """{"std", "low", "high", "each"}: unbiased deviation, Student's t-interval of the mean; None of one value."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    mean, std = statistics.fmean(values), statistics.stdev(values)
    half = stats.t.ppf(0.5 + level / 2, len(values) - 1) * std / math.sqrt(len(values))
    return {"std": std, "low": mean - half, "high": mean + half, "each": list(values)}


def pooled(results: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """One result of those of several seeds: every number its mean, and "spread" that of its value.

    Baselines become so too. "seeds" stands for "seed"; what is no number is the first result's.
    """
    if len(results) == 1:
        return dict(results[0])
    apart = ("baselines", "protocol", "seed")
    found = baseline([{key: value for key, value in one.items() if key not in apart} for one in results])
    found |= {"seeds": list(seeds), "level": LEVEL, "protocol": dict(results[0]["protocol"])}
    rows = results[0]["baselines"]
    found["baselines"] = {name: baseline([one["baselines"][name] for one in results]) for name in rows}
    return found


def baseline(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row of those of several seeds."""
    return {**mean(rows), "spread": spread([one["value"] for one in rows])}


def mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means of what are numbers, also further in; n and the like, the same in all, stay whole."""
    found: dict[str, Any] = {}
    for key, first in rows[0].items():
        values: list[Any] = [row.get(key) for row in rows]
        if isinstance(first, Mapping):
            found[key] = mean([value if isinstance(value, Mapping) else {} for value in values])
        elif any(value != first for value in values) and all(isinstance(value, int | float) for value in values):
            found[key] = statistics.fmean(map(float, values))
        else:
            found[key] = first
    return found
