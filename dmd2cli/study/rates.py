"""How often one arm is preferred to another, with an interval.

No difference counts half for both. The interval is Wilson's, 95 %, for independent votes (E. B. Wilson, JASA 22, 1927).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dmd2cli.study.counted import Counted, Outcome, grouped

LEVEL = 0.95


def wilson(points: float, votes: int) -> tuple[float, float]:
    """Interval of a rate. points: wins; a half one is taken down for the lower end and up for the upper one."""
    from scipy.stats import binomtest

    low = binomtest(math.floor(points), votes).proportion_ci(LEVEL, method="wilson").low
    high = binomtest(math.ceil(points), votes).proportion_ci(LEVEL, method="wilson").high
    return float(low), float(high)


def rate(wins: int, ties: int, losses: int) -> dict[str, Any]:
    """Of so many votes, at least one: the share of points, its interval, the counts."""
    votes = wins + ties + losses
    interval = wilson(wins + ties / 2, votes)
    return {
        "rate": (wins + ties / 2) / votes, "interval": list(interval), "wins": wins, "ties": ties, "losses": losses,
        "votes": votes,
    }  # fmt: skip


def duels(found: Counted, question: str) -> list[dict[str, Any]]:
    """Every two arms that were compared: how often the first is preferred."""
    rows = []
    met_of = grouped(found.of(question), lambda one: (min(one.left, one.right), max(one.left, one.right)))
    for first, second in found.study.duels:
        if met := met_of.get((first, second)):
            names = {"arm": found.study.name(first), "against": found.study.name(second)}
            rows.append({**names, **tally(met, first)})
    return rows


def tally(outcomes: Sequence[Outcome], arm: int) -> dict[str, Any]:
    """The rate of an arm in comparisons that it took part in."""
    wins, ties = sum(one.winner == arm for one in outcomes), sum(one.winner is None for one in outcomes)
    return rate(wins, ties, len(outcomes) - wins - ties)


def by_item(found: Counted, question: str) -> list[dict[str, Any]]:
    """Every item that has votes: the rate of each arm against all others."""
    rows = []
    for number, met in sorted(grouped(found.of(question), lambda one: one.item).items()):
        item = found.study.items[number]
        rates = {
            arm.name: share(own, k)
            for k, arm in enumerate(found.study.arms)
            if (own := [one for one in met if k in (one.left, one.right)])
        }
        rows.append({"item": number, "text": item.text, "seed": item.seed, "votes": len(met), "rates": rates})
    return rows


def share(outcomes: Sequence[Outcome], arm: int) -> float:
    """Of the points in comparisons that an arm took part in."""
    return sum(0.5 if one.winner is None else one.winner == arm for one in outcomes) / len(outcomes)


def side(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """How often the left image was preferred, where one was: about half if the side has no say."""
    pressed = [one.vote.side for one in outcomes]
    left, right = pressed.count("left"), pressed.count("right")
    interval = list(wilson(left, left + right)) if left + right else None
    rate = left / (left + right) if left + right else None
    return {"left": left, "right": right, "none": pressed.count("none"), "rate": rate, "interval": interval}
