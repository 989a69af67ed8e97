"""Images that are already there, as uint8: what references and `dmd2 eval --images` read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from dmd2cli.data.sources.captions import Wanted
from dmd2cli.data.sources.detect import open_source
from dmd2cli.data.sources.labelled import Encoded
from dmd2cli.data.sources.source import Source, fingerprint, full_name, rgb
from dmd2cli.errors import UserError
from dmd2cli.images import NOTE
from dmd2cli.protocols import Raw
from dmd2cli.views import View

THREADS = min(8, os.cpu_count() or 1)
"""That decode images of one batch."""
BATCH, BYTES = 250, 2**27
"""Of images that are held decoded at once: so many, or 128 MiB."""


@dataclass(frozen=True)
class Pictures:
    """The images of a path, in their order there."""

    path: Path
    fingerprint: str
    """Of what the images are, wherever they lie."""
    changed: int
    """When the newest file was changed, in nanoseconds: a fingerprint reads only some of them."""
    source: Source = field(repr=False, compare=False)
    view: View | None = None
    """What is done to each of them."""
    mixed: bool = False
    """Whether their sizes may differ."""
    captions: bool = False
    """Whether their conditions are captions, not labels."""

    def __len__(self) -> int:
        return len(self.source)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the first one."""
        height, width = self.image(0).shape[:2]
        return height, width

    def image(self, i: int) -> UInt8[np.ndarray, "h w 3"]:
        """One of them. Raises UserError if it cannot be read."""
        found = rgb(self.source, i)
        return found if self.view is None else np.asarray(self.view.of(Image.fromarray(found)))

    def images(self, numbers: Sequence[int]) -> UInt8[Tensor, "b 3 h w"]:
        """Some of them. Raises UserError if one cannot be read, or their sizes differ."""
        found = self._decoded(numbers)
        for i, image in zip(numbers, found, strict=True):
            if image.shape != found[0].shape:
                one, other = (f"{a.shape[1]} x {a.shape[0]}" for a in (image, found[0]))
                raise UserError(
                    f"{full_name(self.source, i)}: is {one}, and {self.source.name(numbers[0])} is {other}; make them "
                    "one size first: dmd2 data prepare"
                )
        return _stacked(found)

    def draw(self, numbers: Sequence[int], batch: int | None = None) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
        """Some of them, in their order, in batches; one ends where the size changes, if it may."""
        height, width = self.size
        at_once = batch or min(BATCH, max(1, BYTES // (3 * height * width)))
        for start in range(0, len(numbers), at_once):
            part = numbers[start : start + at_once]
            if self.mixed:
                yield from (_stacked(list(run)) for _, run in groupby(self._decoded(part), lambda image: image.shape))
            else:
                yield self.images(part)

    def conditions(self, n: int) -> list[Raw]:
        """The labels or captions of the first n, None for each that has none."""
        of = self.source.caption if self.captions else self.source.label
        return [of(i) for i in range(min(n, len(self)))]

    def _decoded(self, numbers: Sequence[int]) -> list[np.ndarray]:
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(self.image, numbers))


@dataclass(frozen=True)
class Noted:
    """The prompts that `dmd2 sample` writes into its images."""

    source: Source

    def __getitem__(self, i: int, /) -> str:
        note = self.source.image(i).info.get(NOTE)
        try:
            found = json.loads(note or "{}")
        except ValueError:
            found = {}
        if not isinstance(text := found.get("condition", found.get("prompt")), str):
            raise UserError(f"{full_name(self.source, i)}: has no caption; add them to a metadata.jsonl")
        return text


def open_pictures(path: Path, view: View | None = None, mixed: bool = False, captions: Wanted = False) -> Pictures:
    """The images at a path, in any format of `dmd2 data`. Raises UserError if there is nothing, or no image.

    view: what is done to each. mixed: they may differ in size. captions: as of open_source, or else the prompts that
    `dmd2 sample` wrote into them.
    """
    source = open_source(str(path)) if captions is False else _captioned(str(path), captions)
    return Pictures(path, fingerprint(source), _changed(path), source, view, mixed, captions is not False)


def _captioned(path: str, wanted: Wanted) -> Source:
    """The images of a path with captions. Raises UserError if they have none."""
    try:
        return open_source(path, captions=wanted)
    except UserError:
        found = open_source(path)
        if not isinstance(found, Encoded) or NOTE not in found.image(0).info:
            raise
    return replace(found, captions=Noted(found))


def _stacked(found: Sequence[np.ndarray]) -> UInt8[Tensor, "b 3 h w"]:
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()


def _changed(path: Path) -> int:
    """Of a file, or of all files below a folder; 0 for a pattern."""
    files = [path, *(Path(folder, name) for folder, _, names in os.walk(path) for name in names)]
    return max((file.stat().st_mtime_ns for file in files if file.exists()), default=0)
