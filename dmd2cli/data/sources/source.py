"""What every format of image data becomes: pictures by position, with a name and a label each."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dmd2cli.data.corrupt import Corrupt
from dmd2cli.errors import UserError
from dmd2cli.installation.packages import install

SUFFIXES = {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""Of files that are taken for images."""
SAMPLED = 64
"""Items whose bytes a fingerprint reads."""


class Source(Protocol):
    """Images by position. Picklable; may be read by several threads and after a fork."""

    @property
    def format(self) -> str:
        """folder, zip, npz, ..."""

    @property
    def where(self) -> str:
        """The path, as messages name it."""

    @property
    def classes(self) -> Sequence[str]:
        """What class 0, 1, ... is called in the data; empty where classes have no names."""

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """Of item i inside `where`."""

    def label(self, i: int) -> int | None:
        """Class of item i, None if it has none."""

    def caption(self, i: int) -> str | None:
        """What item i shows, if captions are read. Raises Corrupt if it cannot be read."""

    def size(self, i: int) -> int:
        """Bytes that item i takes, as stored."""

    def raw(self, i: int) -> bytes:
        """Item i as stored: a PNG or JPEG file, or uint8 values. Raises Corrupt if it cannot be read."""

    def image(self, i: int) -> Image.Image:
        """Item i decoded, in the mode it is stored in. Raises Corrupt if it cannot be."""


def decode(raw: bytes, name: str) -> Image.Image:
    """An image file, decoded to its last pixel; the first frame of several. Raises Corrupt."""
    try:
        image = Image.open(io.BytesIO(raw))
        image.load()
        return image
    except MemoryError:
        raise
    except Exception as err:                       # decoders raise what they like on a damaged file
        raise Corrupt(name, "not an image file" if "cannot identify" in str(err) else str(err)) from err


def pixels(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """RGB values (h, w, 3). Grey is repeated, 16 bits become 8, what is transparent is laid over white.

    Raises Corrupt for images of floating-point values, which have no known range.
    """
    if image.mode.startswith("I"):                 # 16 bits; Pillow opens some of them as 32
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise Corrupt(name, f"values from {values.min()} to {values.max()}, not 0 to 65535")
        return np.repeat((values // 256).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise Corrupt(name, "floating-point values, whose range is unknown")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def rgb(source: Source, i: int) -> NDArray[np.uint8]:
    """Item i of a source as RGB values (h, w, 3). Raises Corrupt."""
    return pixels(source.image(i), full_name(source, i))


def full_name(source: Source, i: int) -> str:
    """Item i as a person looks for it."""
    return f"{source.where}/{source.name(i)}"


def fingerprint(source: Source) -> str:
    """SHA-256 over names, sizes and labels of all items and over bytes and captions of SAMPLED of them, evenly spaced.

    The same for the same files in a folder, a zip or somewhere else on the disk.
    """
    digest, n = hashlib.sha256(), len(source)
    for i in range(n):
        digest.update(f"{source.name(i)}\0{source.size(i)}\0{source.label(i)}\n".encode())
    for k in range(min(n, SAMPLED)):
        try:
            digest.update(source.raw(i := k * n // min(n, SAMPLED)))
            digest.update((source.caption(i) or "").encode())
        except Corrupt:
            digest.update(b"corrupt")
    return digest.hexdigest()


def extra(package: str, dataset: str) -> Any:
    """An optional package. Raises UserError that says how to install it."""
    try:
        return import_module(package)
    except ModuleNotFoundError as err:
        if err.name != package:
            raise
        raise UserError(f"dataset '{dataset}' needs {package}: {install(package)}") from None
