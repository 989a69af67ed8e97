"""The arms of a new study: images that are there already, and images that are drawn for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

from dmd2cli.data.sources.source import Source, full_name, pixels
from dmd2cli.errors import UserError

if TYPE_CHECKING:
    from dmd2cli.protocols import Raw

MOST_SIDE = 4096
"""Pixels: what is larger takes a rater too long to load."""

Pixels: TypeAlias = NDArray[np.uint8]
"""One image (h, w, 3)."""


@dataclass(frozen=True)
class Files:
    """Images of a folder, zip or npz. about: where they are from, JSON values."""

    name: str
    source: Source
    about: Mapping[str, Any]

    def text(self, place: int) -> str | None:
        """The class of an image, by name where it has one."""
        label, classes = self.source.label(place), self.source.classes
        if label is None:
            return None
        return classes[label] if label < len(classes) else str(label)

    def image(self, place: int) -> Pixels:
        """One image, turned as its camera says. Raises UserError if it is damaged or too large."""
        name, image = full_name(self.source, place), self.source.image(place)
        if max(image.size) > MOST_SIDE:
            raise UserError(f"{name}: {image.width} x {image.height} pixels; make it {MOST_SIDE} a side or less")
        return pixels(ImageOps.exif_transpose(image), name)


@dataclass(frozen=True)
class Drawn:
    """Images that are drawn for the study. What can do this is an arm: a student, a teacher, a pipeline.

    draw: from conditions and a seed for all (image i is number i of it) or a seed for each (all are number 0), as
    dmd2cli.source.Source.draw. conditions: what it draws without prompts, in turn; [None] if it is unconditional.
    reads: whether its conditions are prompts.
    """

    name: str
    about: Mapping[str, Any]
    draw: Callable[[Sequence[Raw], int | Sequence[int]], Iterable[Pixels]]
    conditions: Sequence[Raw] = ()
    reads: bool = True


AnyArm: TypeAlias = Files | Drawn
