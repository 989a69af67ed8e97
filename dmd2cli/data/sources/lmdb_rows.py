"""LMDB in the layout of the official DMD2 code (`data/create_imagenet_lmdb.py`): one key for each row of an array.

    {array}_shape       the shape as text, numbers with spaces between; the first is the number of rows
    {array}_{i}_data    row i, raw bytes

images: uint8 (c, h, w). labels: int64, one each; may be missing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from dmd2cli.data.corrupt import Corrupt
from dmd2cli.data.sources.arrays import CHANNELS, of_values
from dmd2cli.data.sources.source import extra
from dmd2cli.errors import UserError

_lock = threading.Lock()
_open: dict[str, tuple[int, Any]] = {}
"""Real path -> (process, environment): LMDB bears no second opening of one file in a process."""


def environment(path: str) -> Any:
    """The LMDB of a path, opened once in this process. Raises UserError if it is something else."""
    lmdb, real = extra("lmdb", "lmdb"), os.path.realpath(path)
    with _lock:
        process, found = _open.get(real, (0, None))
        if process != os.getpid():
            if found is not None:
                found.close()                      # the parent's, inherited by a fork; open there still
            try:
                found = lmdb.open(real, subdir=os.path.isdir(real), readonly=True, lock=False, readahead=False)
            except lmdb.Error as err:
                raise UserError(f"{path}: not an LMDB that can be opened ({err}); copy it again") from None
            _open[real] = os.getpid(), found
    return found


class LmdbRows:
    """Images of an LMDB. array, labels: what its two arrays are called, labels None = not read.

    Raises UserError if it has no such images.
    """

    format = "lmdb"
    classes: Sequence[str] = ()

    def __init__(self, path: str, array: str = "images", labels: str | None = "labels") -> None:
        self.where, self.array, self.labels = path, array, labels
        shape = self.shape(array)
        if shape is None:
            raise UserError(f"{path}: no key {array}_shape; this LMDB has another layout than the official DMD2 code's")
        if len(shape) != 4 or shape[1] not in CHANNELS or min(shape) < 0:
            raise UserError(f"{path}: {array}_shape is {shape}; expected count, channels (1, 3, 4), height, width")
        self.n, *self.item = shape
        found = self.shape(labels) if labels is not None else None
        self.labelled = found is not None
        if found is not None and found[0] != self.n:
            raise UserError(f"{path}: {self.n} {array}, but {found[0]} {labels}; make it again")

    def shape(self, array: str) -> list[int] | None:
        """The shape of an array, None if it is not there."""
        raw = self.get(f"{array}_shape")
        try:
            return [int(word) for word in raw.split()] if raw is not None else None
        except ValueError:
            raise UserError(f"{self.where}: {array}_shape is {raw!r}; expected numbers") from None

    def get(self, key: str) -> bytes | None:
        """The value of a key, None if there is none."""
        with environment(self.where).begin() as transaction:
            found: bytes | None = transaction.get(key.encode())
            return found

    def __len__(self) -> int:
        return self.n

    def name(self, i: int) -> str:
        return f"{self.array}_{i}_data"

    def size(self, i: int) -> int:
        return int(np.prod(self.item))

    def label(self, i: int) -> int | None:
        return int(self._labels[i]) if self.labelled else None

    def caption(self, i: int) -> None:
        return None

    @cached_property
    def _labels(self) -> Sequence[int]:
        """All labels, read at first use."""
        rows = [self.get(f"{self.labels}_{i}_data") for i in range(self.n)]
        if bad := [i for i, row in enumerate(rows) if row is None or len(row) != 8]:
            raise UserError(f"{self.where}: {self.labels}_{bad[0]}_data is no int64; make it again")
        found = np.frombuffer(b"".join(row for row in rows if row), np.int64)
        if found.size and found.min() < 0:
            raise UserError(f"{self.where}: label {found.min()} in {self.labels}; expected 0, 1, 2, ...")
        return found.tolist()

    def raw(self, i: int) -> bytes:
        name = f"{self.where}/{self.name(i)}"
        found = self.get(self.name(i))
        if found is None:
            raise Corrupt(name, "no such key")
        if len(found) != self.size(i):
            raise Corrupt(name, f"{len(found)} bytes, not {self.size(i)}")
        return found

    def image(self, i: int) -> Image.Image:
        values = np.frombuffer(self.raw(i), np.uint8).reshape(self.item)
        return of_values(values.transpose(1, 2, 0))
