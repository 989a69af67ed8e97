"""What the student is trained on: how many different conditions and real samples a batch has."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from dmd2cli.data.base import Batch
from dmd2cli.protocols import Raw


def conditions(batches: Sequence[Batch], known: int) -> dict[str, Tensor]:
    """Effective number of different conditions in the batch over what could be there; {} without conditions.

    exp of the entropy of their frequencies. known: how many there are to draw from, 0 for no end of them.
    """
    raw: list[Raw] = [one for batch in batches for one in batch.raw if one is not None]
    if not raw:
        return {}
    return {"conditions": torch.tensor(effective(raw) / effective_at_random(len(raw), known))}


def effective(raw: Sequence[Raw]) -> float:
    """exp of the entropy of the frequencies: n for n different ones, 1 for one alone."""
    counts = Counter(raw)
    return math.exp(-sum(c / len(raw) * math.log(c / len(raw)) for c in counts.values()))


def effective_at_random(n: int, known: int) -> float:
    """About what n draws among `known` equally likely ones have; n where there is no end to them.

    The entropy of a sample falls short of the true one by (known - 1) / 2n on average (Miller 1955).
    """
    if not known:
        return float(n)
    return min(float(n), known) * math.exp(-min(1.0, (known - 1) / (2 * n)))


def distinct(batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Share of the real samples of the batch that differ from all before them; {} without real data."""
    found = [batch.x.flatten(1) for batch in batches if batch.x is not None]
    if not found:
        return {}
    x = torch.cat(found).double()
    marks = torch.stack([x.sum(1), x @ torch.linspace(-1, 1, x.shape[1], device=x.device, dtype=x.dtype)], 1)
    return {"real/distinct": torch.tensor(len({tuple(mark) for mark in marks.tolist()}) / len(marks))}
