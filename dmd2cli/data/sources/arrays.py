"""Images that lie in memory as one array: .npz files, and CIFAR-10."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dmd2cli.errors import UserError

KEYS = {"images": ("images", "arr_0", "x"), "labels": ("labels", "arr_1", "y")}
"""What the arrays of an .npz may be called; arr_0 and arr_1 are numpy's own names, as ADM's reference sets have."""
CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Rows:
    """Images uint8 (n, h, w, c) with c 1, 3 or 4. names: of parts, and how many rows are in the parts before."""

    format: str
    where: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    classes: Sequence[str] = ()
    parts: Sequence[tuple[str, int]] = (("", 0),)

    def __len__(self) -> int:
        return len(self.images)

    def name(self, i: int) -> str:
        part, first = next(part for part in reversed(self.parts) if part[1] <= i)
        return f"{part}[{i - first}]"

    def label(self, i: int) -> int | None:
        return int(self.labels[i]) if self.labels is not None else None

    def caption(self, i: int) -> None:
        return None

    def size(self, i: int) -> int:
        return self.images[0].size

    def raw(self, i: int) -> bytes:
        return self.images[i].tobytes()

    def image(self, i: int) -> Image.Image:
        return of_values(self.images[i])


def of_values(values: NDArray[np.uint8]) -> Image.Image:
    """An image of uint8 values (h, w, c), c 1, 3 or 4."""
    return Image.fromarray(np.ascontiguousarray(values[:, :, 0] if values.shape[2] == 1 else values))


def npz(path: str, labelled: bool = True) -> Rows:
    """The arrays images and labels of an .npz; labelled=False leaves the labels out.

    Raises UserError if they are missing or something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = {part: next((key for key in keys if key in file.files), None) for part, keys in KEYS.items()}
            if names["images"] is None:
                there = ", ".join(file.files[:5]) or "nothing"
                raise UserError(f"{path}: no array called images; there is {there}; save it as images=...")
            found = file[names["images"]]
            labels = file[names["labels"]] if labelled and names["labels"] is not None else None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as err:
        raise UserError(f"{path}: not a whole .npz of plain arrays ({err}); make it again") from None
    images = channels_last(found, path)
    return Rows("npz", path, images, class_numbers(labels, len(images), path))


def channels_last(found: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Images (n, h, w, c) from (n, h, w, c), (n, c, h, w) or grey (n, h, w). Raises UserError for anything else."""
    if found.dtype != np.uint8:
        raise UserError(f"{where}: images of type {found.dtype}; save them as uint8, 0 to 255")
    if found.ndim == 3:
        return found[:, :, :, None]
    if found.ndim == 4 and found.shape[3] in CHANNELS:
        return found
    if found.ndim == 4 and found.shape[1] in CHANNELS:
        return found.transpose(0, 2, 3, 1)
    raise UserError(f"{where}: images of shape {found.shape}; expected (n, h, w, c) or (n, c, h, w), c 1, 3 or 4")


def class_numbers(found: NDArray[Any] | None, n: int, where: str) -> NDArray[np.int64] | None:
    """One label for each image, or None. Raises UserError if they are not."""
    if found is None:
        return None
    if found.shape not in ((n,), (n, 1)) or found.dtype.kind not in "iu" or (found.size and found.min() < 0):
        raise UserError(f"{where}: labels {found.dtype} {found.shape}; expected {n} integers, one per image, from 0")
    return found.reshape(n).astype(np.int64)
