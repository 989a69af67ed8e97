"""Metrics and diversity over samples of a Source, with those of its teacher and of real data beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from jaxtyping import UInt8
from torch import Tensor

from dmd2cli.diversity import Diversity
from dmd2cli.protocols import Metric, Raw


class Drawn(Protocol):
    """What is measured: something that draws images (a Source, a pipeline), or images that are there."""

    def draw(self, raw: Sequence[Raw], seed: int) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
        """Images 0, 1, ... for some conditions, in batches."""

    def conditions(self, n: int) -> list[Raw]:
        """Those of n images, where nobody names others."""

    @property
    def cost(self) -> Mapping[str, Any]:
        """What an image took to draw, asked for afterwards: "nfe", "guidance"; {} if nothing is known."""


def evaluate(
    make: Callable[[], Metric], source: Drawn, n: int, seed: int, teacher: Drawn | None = None, name: str = "student"
) -> dict[str, Any]:
    """evaluate_all() of one metric."""
    return evaluate_all([make], source, n, seed, teacher, name)[0]


def evaluate_all(
    makers: Sequence[Callable[[], Metric]],
    source: Drawn,
    n: int,
    seed: int,
    teacher: Drawn | None = None,
    name: str = "student",
    raw: Sequence[Raw] | None = None,
) -> list[dict[str, Any]]:
    """{"metric", "value", ..., "n", "seed", "nfe", "seconds", "size", "diversity", "protocol", "baselines"} of each.

    All are measured on the same n samples. raw: their conditions; by default the source's own in turn. Baselines are n
    real samples, if the metric has some, and n of the teacher's if it is given, under the same protocol and seed. name:
    what the source is called in "diversity"; the rest of it as in compared().
    """
    metrics = [make() for make in makers]
    check(metrics, n)
    found = measure_all(metrics, source, n, seed, raw)
    baselines = [{"real": real} if (real := dict(metric.real(n, seed))) else {} for metric in metrics]
    if teacher is not None:
        again = measure_all([make() for make in makers], teacher, n, seed, raw)
        for beside, numbers in zip(baselines, again, strict=True):
            beside["teacher"] = numbers
    return [
        {"metric": metric.name, **numbers, "n": n, "seed": seed}
        | {"diversity": compared({name: numbers, **beside}), "protocol": dict(metric.protocol), "baselines": beside}
        for metric, numbers, beside in zip(metrics, found, baselines, strict=True)
    ]


def check(metrics: Sequence[Metric], n: int) -> None:
    """Raise UserError if n images are too few for one of them."""
    for metric in metrics:
        getattr(metric, "check", lambda n: None)(n)


def compared(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """The "diversity" of every row that has it, and "ratio", the student's over the teacher's, where there are both.

    Of real data it is there if the metric's real() gives it.
    """
    found = {name: numbers["diversity"] for name, numbers in rows.items() if "diversity" in numbers}
    student, teacher = found.get("student"), found.get("teacher")
    if "student" in found and "teacher" in found:
        found["ratio"] = student / teacher if student is not None and teacher else None
    return found


def measure(metric: Metric, source: Drawn, n: int, seed: int) -> dict[str, Any]:
    """The metric's numbers for n samples of a source, with their diversity and what they cost to draw."""
    return measure_all([metric], source, n, seed)[0]


def measure_all(
    metrics: Sequence[Metric], source: Drawn, n: int, seed: int, raw: Sequence[Raw] | None = None
) -> list[dict[str, Any]]:
    """measure() of several metrics on the same samples; "seconds" is the drawing alone. raw: as in evaluate_all().
    "size" is the height and width of the images, or "several".

    No more than one batch of images is held at a time, beside what the metrics and the diversity keep.
    """
    raw, clock, first, spread = source.conditions(n) if raw is None else raw, Clock(), 0, Diversity()
    sizes = set[tuple[int, ...]]()
    for images in clock.timed(iter(source.draw(raw, seed))):
        conditions = raw[first : first + len(images)]
        spread.update(images, conditions)
        for metric in metrics:
            metric.update(images, conditions)
        sizes.add(tuple(images.shape[2:]))
        first += len(images)
    size = list(sizes.pop()) if len(sizes) == 1 else "several"
    cost = {**source.cost, "seconds": round(clock.seconds, 3), "size": size}
    return [{**metric.compute(), "diversity": spread.compute(), **cost} for metric in metrics]


class Clock:
    """Seconds spent in an iterator, and not in what is done with its items."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, items: Iterator[Tensor]) -> Iterator[Tensor]:
        """The same items. Before each, a GPU first ends what it was given for the last."""
        while True:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            started = time.perf_counter()
            item = next(items, None)
            self.seconds += time.perf_counter() - started
            if item is None:
                return
            yield item
