"""A metric over samples of a Source, with the same metric of its teacher and of real data beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from dmd2cli.protocols import Metric
from dmd2cli.source import Source


def evaluate(make: Callable[[], Metric], source: Source, n: int, seed: int, baselines: bool) -> dict[str, Any]:
    """{"metric", "value", ..., "n", "seed", "protocol", "baselines", "nfe", "seconds"} of n samples."""
    metric = make()
    started = time.perf_counter()
    raw = source.conditions(n)
    first = 0
    for images in source.draw(raw, seed):
        metric.update(images, raw[first : first + len(images)])
        first += len(images)
    seconds = time.perf_counter() - started
    found = {"metric": metric.name, **metric.compute(), "n": n, "seed": seed, "protocol": dict(metric.protocol)}
    found |= {"nfe": source.sampler.nfe, "guidance": source.guidance, "seconds": round(seconds, 3)}
    return found | ({"baselines": {"real": dict(metric.real(n, seed))}} if baselines else {})
