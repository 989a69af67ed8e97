"""A metric over samples of a Source, with the same metric of its teacher and of real data beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from dmd2cli.protocols import Metric
from dmd2cli.source import Source


def evaluate(
    make: Callable[[], Metric], source: Source, n: int, seed: int, teacher: Source | None = None
) -> dict[str, Any]:
    """{"metric", "value", ..., "n", "seed", "nfe", "seconds", "protocol", "baselines"} of n samples.

    Baselines are n real samples, and n of the teacher's if it is given, under the same protocol and seed.
    """
    metric = make()
    baselines = {"real": dict(metric.real(n, seed))}
    if teacher is not None:
        baselines["teacher"] = measure(make(), teacher, n, seed)
    found = measure(metric, source, n, seed)
    protocol = {"protocol": dict(metric.protocol), "baselines": baselines}
    return {"metric": metric.name, **found, "n": n, "seed": seed, **protocol}


def measure(metric: Metric, source: Source, n: int, seed: int) -> dict[str, Any]:
    """The metric's numbers for n samples of a source, with what they cost to draw."""
    return measure_all([metric], source, n, seed)[0]


def measure_all(metrics: Sequence[Metric], source: Source, n: int, seed: int) -> list[dict[str, Any]]:
    """measure() of several metrics on the same samples; "seconds" is the drawing alone."""
    raw, drawn, started = source.conditions(n), list[Tensor](), time.perf_counter()
    for images in source.draw(raw, seed):
        drawn.append(images)
    cost = {"nfe": source.sampler.nfe, "guidance": source.guidance, "seconds": round(time.perf_counter() - started, 3)}
    first = 0
    for images in drawn:
        for metric in metrics:
            metric.update(images, raw[first : first + len(images)])
        first += len(images)
    return [{**metric.compute(), **cost} for metric in metrics]
