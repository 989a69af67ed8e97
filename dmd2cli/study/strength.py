"""Several arms on one scale: Bradley and Terry's model, P(i preferred to j) = s_i / (s_i + s_j) (Biometrika 39, 1952).

No difference is half a win for both. To every two arms that met one vote of no difference is added, so that an arm that
always wins has a finite strength. Intervals are percentiles over bootstrap samples of the items: votes on one item are
not independent of each other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmd2cli.study.counted import Counted, Points, grouped, points

SAMPLES, SEED = 1000, 0
STEPS, CLOSE = 2000, 1e-9


def strengths(found: Counted, question: str) -> list[dict[str, Any]]:
    """ln s of every arm, with mean zero, and its 95 % interval; best first. Empty unless all arms can be compared."""
    arms, met = len(found.study.arms), grouped(found.of(question), lambda one: one.item)
    each = np.stack([points(own, arms) for own in met.values()]) if met else np.zeros((0, arms, arms))
    if not connected(each.sum(0)):
        return []
    picks = np.random.default_rng(SEED).multinomial(len(each), np.full(len(each), 1 / len(each)), SAMPLES)
    prior = 0.5 * (each.sum(0) + each.sum(0).T > 0)
    best = fit(each.sum(0)[None] + prior)[0]
    low, high = np.percentile(fit(np.einsum("si,ijk->sjk", picks, each) + prior), [2.5, 97.5], axis=0)
    rows = [
        {"arm": arm.name, "strength": float(best[k]), "interval": [float(low[k]), float(high[k])]}
        for k, arm in enumerate(found.study.arms)
    ]
    return sorted(rows, key=lambda row: -row["strength"])


def fit(won: NDArray[np.float64]) -> NDArray[np.float64]:
    """ln s (b, arms), mean zero, of points (b, arms, arms), by the MM steps of Hunter (Ann. Stat. 32, 2004)."""
    met = won + won.swapaxes(1, 2)
    s = np.ones(won.shape[:2])
    for _ in range(STEPS):
        new = won.sum(2) / (met / (s[:, :, None] + s[:, None, :])).sum(2)
        new /= np.exp(np.log(new).mean(1, keepdims=True))
        done, s = np.abs(new / s - 1).max() < CLOSE, new
        if done:
            break
    return np.log(s)


def connected(won: Points) -> bool:
    """Whether votes lead from every arm to every other."""
    reached, met = {0}, won + won.T > 0
    for _ in range(len(won)):
        reached |= {int(j) for i in reached for j in np.flatnonzero(met[i])}
    return len(reached) == len(won)


