"""check_dataset: what the loader takes for granted of a data set."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from dmd2cli.protocols import Dataset, Example, Teacher
from dmd2cli.testing.said import every, say


def check_dataset(dataset: Dataset, teacher: Teacher | None = None) -> None:
    """Position-addressed: item i is the same whenever and in whatever order it is read, and fits the teacher."""
    every(CHECKS, Reading(dataset, teacher))


@dataclass(frozen=True)
class Reading:
    """A data set, and the teacher it is to be for, if there is one."""

    dataset: Dataset
    teacher: Teacher | None = None

    @property
    def places(self) -> list[int]:
        """The first item, one in the middle, the last."""
        n = len(self.dataset)
        return sorted({0, n // 2, n - 1}) if n else []


def items(reading: Reading) -> None:
    """It has items, and they are Examples."""
    say(len(reading.dataset) >= 1, "a dataset must have at least one item")
    for i in reading.places:
        one = reading.dataset[i]
        say(isinstance(one, Example), f"item {i} must be an Example, not {type(one).__name__}")


def function_of_i(reading: Reading) -> None:
    """Item i is a function of i: the same again, in any order."""
    first = {i: reading.dataset[i] for i in reading.places}
    for i in reversed(reading.places):
        same(i, first[i], reading.dataset[i])
        same(i, reading.dataset[i], reading.dataset[i])


def samples(reading: Reading) -> None:
    """What it has of x is float32, finite, and of the shape that the teacher draws."""
    shape = None if reading.teacher is None else tuple(reading.teacher.shape)
    for i in reading.places:
        x = reading.dataset[i].x
        if x is None:
            continue
        say(x.dtype == torch.float32 and x.isfinite().all(), f"item {i} must be finite float32")
        say(shape in (None, tuple(x.shape)), f"item {i} must have the shape {shape}, not {tuple(x.shape)}")


def conditions(reading: Reading) -> None:
    """The teacher knows its conditions."""
    if reading.teacher is not None:
        for i in reading.places:
            reading.teacher.encode([reading.dataset[i].condition])


def threads(reading: Reading) -> None:
    """Read by several threads at once, as the loader does, its items are the same."""
    alone = [reading.dataset[i] for i in reading.places]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            read = pool.map(reading.dataset.__getitem__, reading.places)
            for i, one, two in zip(reading.places, alone, read, strict=True):
                same(i, one, two, " when several threads read")


CHECKS = (items, function_of_i, samples, conditions, threads)


def same(i: int, one: Example, two: Example, when: str = "") -> None:
    """Raise Broken unless two readings of item i agree."""
    say(one.condition == two.condition, f"item {i} has another condition each time{when}: it must be a function of i")
    for name in ("x", "noise"):
        a, b = getattr(one, name), getattr(two, name)
        say((a is None) == (b is None), f"item {i} must be a function of i")
        equal = not isinstance(a, Tensor) or a.equal(b)
        say(equal, f"item {i} differs each time it is read{when}: it must be a function of i")
