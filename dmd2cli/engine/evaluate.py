"""Metrics and diversity over samples of a Source, with those of its teacher and of real data beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from dmd2cli.diversity import Diversity
from dmd2cli.protocols import Metric
from dmd2cli.source import Source


def evaluate(
    make: Callable[[], Metric], source: Source, n: int, seed: int, teacher: Source | None = None, name: str = "student"
) -> dict[str, Any]:
    """evaluate_all() of one metric."""
    return evaluate_all([make], source, n, seed, teacher, name)[0]


def evaluate_all(
    makers: Sequence[Callable[[], Metric]],
    source: Source,
    n: int,
    seed: int,
    teacher: Source | None = None,
    name: str = "student",
) -> list[dict[str, Any]]:
    """{"metric", "value", ..., "n", "seed", "nfe", "seconds", "diversity", "protocol", "baselines"} of each metric.

    All are measured on the same n samples. Baselines are n real samples, and n of the teacher's if it is given, under
    the same protocol and seed. name: what the source is called in "diversity"; the rest of it as in compared().
    """
    metrics = [make() for make in makers]
    baselines = [{"real": dict(metric.real(n, seed))} for metric in metrics]
    if teacher is not None:
        for beside, numbers in zip(baselines, measure_all([make() for make in makers], teacher, n, seed), strict=True):
            beside["teacher"] = numbers
    found = measure_all(metrics, source, n, seed)
    return [
        {"metric": metric.name, **numbers, "n": n, "seed": seed}
        | {"diversity": compared({name: numbers, **beside}), "protocol": dict(metric.protocol), "baselines": beside}
        for metric, numbers, beside in zip(metrics, found, baselines, strict=True)
    ]


def compared(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """The "diversity" of every row that has it, and "ratio", the student's over the teacher's, where there are both.

    Of real data it is there if the metric's real() gives it.
    """
    found = {name: numbers["diversity"] for name, numbers in rows.items() if "diversity" in numbers}
    student, teacher = found.get("student"), found.get("teacher")
    if "student" in found and "teacher" in found:
        found["ratio"] = student / teacher if student is not None and teacher else None
    return found


def measure(metric: Metric, source: Source, n: int, seed: int) -> dict[str, Any]:
    """The metric's numbers for n samples of a source, with their diversity and what they cost to draw."""
    return measure_all([metric], source, n, seed)[0]


def measure_all(metrics: Sequence[Metric], source: Source, n: int, seed: int) -> list[dict[str, Any]]:
    """measure() of several metrics on the same samples; "seconds" is the drawing alone."""
    raw, drawn, started = source.conditions(n), list[Tensor](), time.perf_counter()
    for images in source.draw(raw, seed):
        drawn.append(images)
    cost = {"nfe": source.sampler.nfe, "guidance": source.guidance, "seconds": round(time.perf_counter() - started, 3)}
    first, spread = 0, Diversity()
    for images in drawn:
        conditions = raw[first : first + len(images)]
        spread.update(images, conditions)
        for metric in metrics:
            metric.update(images, conditions)
        first += len(images)
    return [{**metric.compute(), "diversity": spread.compute(), **cost} for metric in metrics]
