"""Images that are already there, as uint8 and all of one size: what references and `dmd2 eval --images` read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from dmd2cli.data.sources.detect import open_source
from dmd2cli.data.sources.source import Source, fingerprint, full_name, rgb
from dmd2cli.errors import UserError
from dmd2cli.protocols import Raw

THREADS = min(8, os.cpu_count() or 1)
"""That decode images of one batch."""


@dataclass(frozen=True)
class Pictures:
    """The images of a path, in their order there."""

    path: Path
    fingerprint: str
    """Of what the images are, wherever they lie."""
    changed: int
    """When the newest file was changed, in nanoseconds: a fingerprint reads only some of them."""
    source: Source = field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the first one."""
        height, width = rgb(self.source, 0).shape[:2]
        return height, width

    def images(self, numbers: Sequence[int]) -> UInt8[Tensor, "b 3 h w"]:
        """Some of them. Raises UserError if one cannot be read, or their sizes differ."""
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(lambda i: rgb(self.source, i), numbers))
        for i, image in zip(numbers, found, strict=True):
            if image.shape != found[0].shape:
                one, other = (f"{a.shape[1]} x {a.shape[0]}" for a in (image, found[0]))
                raise UserError(
                    f"{full_name(self.source, i)}: is {one}, and {self.source.name(numbers[0])} is {other}; make them "
                    "one size first: dmd2 data prepare"
                )
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()

    def draw(self, numbers: Sequence[int], batch: int = 250) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
        """Some of them, in batches."""
        for start in range(0, len(numbers), batch):
            yield self.images(numbers[start : start + batch])

    def conditions(self, n: int) -> list[Raw]:
        """The labels of the first n, None for each that has none."""
        return [self.source.label(i) for i in range(min(n, len(self)))]


def open_pictures(path: Path) -> Pictures:
    """The images at a path, in any format of `dmd2 data`. Raises UserError if there is nothing, or no image."""
    source = open_source(str(path))
    return Pictures(path, fingerprint(source), _changed(path), source)


def _changed(path: Path) -> int:
    """Of a file, or of all files below a folder; 0 for a pattern."""
    files = [path, *(Path(folder, name) for folder, _, names in os.walk(path) for name in names)]
    return max((file.stat().st_mtime_ns for file in files if file.exists()), default=0)
