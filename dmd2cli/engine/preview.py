"""The picture that a run draws of its student now and then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import torch

from dmd2cli import images
from dmd2cli.core.denoiser import Cond
from dmd2cli.data.base import Loader, condition
from dmd2cli.protocols import Example, Raw, Teacher
from dmd2cli.source import Source

VALUES = 2**19
"""Of all x in one picture: 40 of ImageNet 64, 32 of Stable Diffusion 1.5, 8 of SDXL."""


def columns(teacher: Teacher) -> int:
    """Images side by side: the classes, if there are any."""
    return min(len(teacher.conditions) or 8, 10, count(teacher))


def count(teacher: Teacher) -> int:
    """Images in a picture: four rows, or as many as VALUES allow."""
    return max(1, min(4 * min(len(teacher.conditions) or 8, 10), VALUES // prod(teacher.shape)))


def draw(source: Source, loader: Loader, batch: int, path: Path | None) -> None:
    """Draw the first conditions that the student is trained for, the same ones at every step; of classes, all in turn.

    Conditions that were encoded beforehand are used as they are. batch: images drawn at once. path: None draws with the
    other ranks, and leaves the writing to the first.
    """
    teacher = source.teacher
    examples = shown(teacher, loader)
    drawn = list(by_number(source, loader, examples).draw(range(len(examples)), seed=0, batch=batch))
    if path is not None:
        images.save_png(images.grid(torch.cat(drawn), columns(teacher)), path)


def by_number(source: Source, loader: Loader, examples: Sequence[Example]) -> Source:
    """The same, but its conditions are the numbers of some examples, which may have been encoded beforehand."""

    def encode(numbers: Sequence[Raw]) -> tuple[Cond, Cond]:
        return loader.encoded(source.teacher, [examples[int(i or 0)] for i in numbers])

    return replace(source, teacher=replace(source.teacher, encode=encode))


def shown(teacher: Teacher, loader: Loader) -> list[Example]:
    """Whose images are drawn."""
    n, every, data = count(teacher), list[Raw](teacher.conditions), loader.asked
    if every or data is None:
        return [Example(condition=every[i % len(every)] if every else None) for i in range(n)]
    places = [i % len(data) for i in range(n)]
    if getattr(data, "null", {}):
        return [data[i] for i in places]
    return [Example(condition=condition(data, i)) for i in places]
