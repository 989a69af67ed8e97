"""Do raters agree? Krippendorff's alpha for nominal values, with any number of raters and any votes missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

from dmd2cli.study.counted import Outcome, grouped


def alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """1 - observed / expected disagreement (K. Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011, C).

    units: the values that raters gave each thing. 1 is agreement, 0 what chance gives; None if no two raters judged the
    same thing, or all values are one.
    """
    shared = [Counter(values) for values in units if len(values) > 1]
    totals = sum(shared, Counter())
    n = totals.total()
    expected = n * n - sum(count * count for count in totals.values())
    if not expected:
        return None
    observed = sum((unit.total() ** 2 - sum(c * c for c in unit.values())) / (unit.total() - 1) for unit in shared)
    return 1 - (n - 1) * observed / expected


def of_raters(outcomes: Iterable[Outcome]) -> float | None:
    """Alpha of the answers to one question; the values are the preferred arm, or no difference."""
    units = grouped(outcomes, lambda one: one.vote.pair).values()
    return alpha([one.winner for one in unit] for unit in units)
