"""Data sets of real images: RGB in [-1, 1] with class labels or captions, from files of many formats.

Item i is a function of i. What is read and how is dmd2cli/data/sources; here are the options of a recipe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dmd2cli.data.corrupt import Corrupt
from dmd2cli.data.sources.cifar import cifar10
from dmd2cli.data.sources.detect import open_source
from dmd2cli.data.sources.hub import Hub
from dmd2cli.data.sources.lmdb_rows import LmdbRows
from dmd2cli.data.sources.shards import Shards
from dmd2cli.data.sources.source import Source, fingerprint, full_name, rgb
from dmd2cli.errors import UserError
from dmd2cli.protocols import Example, Raw


@dataclass(kw_only=True, eq=False)
class ImageSet(ABC):
    """What all of them have in common.

    size: side that every image must have; null = that of the first. labels: class labels as conditions, if the data
    have them. classes: there must be labels, all below this. mirror: also every image flipped left to right, as items
    of their own. limit: only so many images, evenly spaced. max_corrupt: images that cannot be read before a run
    stops. Raises UserError for data that are missing, damaged or of another size.
    """

    reads_files: ClassVar[bool] = True

    size: int | None = None
    labels: bool = True
    classes: int | None = None
    mirror: bool = False
    limit: int | None = None
    max_corrupt: int = 10

    def __post_init__(self) -> None:
        for option, least in (("size", 1), ("classes", 1), ("limit", 1), ("max_corrupt", 0)):
            value = getattr(self, option)
            if value is not None and value < least:
                raise UserError(f"{option} must be at least {least}, got {value}")
        self.source = self.opened()
        if not len(self.source):
            raise UserError(f"{self.source.where}: no images in it")
        self.count = min(self.limit or len(self.source), len(self.source))
        first = self._first()
        self.side = (self.size, self.size) if self.size is not None else rgb(self.source, first).shape[1::-1]
        self.pixels(first)                         # a size that is wrong is told of now, not at the first step
        if self.classes is not None and (not self.labels or self.source.label(first) is None):
            raise UserError(f"{self.source.where}: has no class labels, but classes is {self.classes}; leave it out")

    @abstractmethod
    def opened(self) -> Source:
        """Where the images come from."""

    def __len__(self) -> int:
        return 2 * self.count if self.mirror else self.count

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < len(self):
            raise IndexError(f"image {i} of {len(self)}")
        k, found = self.place(i), self.pixels(self.place(i))
        return Example(to_model(found[:, :, ::-1] if i >= self.count else found), self.condition_of(k))

    def place(self, i: int) -> int:
        """Which image of the source item i is."""
        return i % self.count * len(self.source) // self.count

    def name(self, i: int) -> str:
        """Item i as a person looks for it."""
        return full_name(self.source, self.place(i))

    def condition(self, i: int) -> Raw:
        """Of item i, without its image."""
        return self.condition_of(self.place(i))

    def condition_of(self, k: int) -> Raw:
        """Of image k of the source."""
        return self.class_of(k)

    def pixels(self, k: int) -> UInt8[np.ndarray, "3 h w"]:
        """Image k of the source. Raises Corrupt if it cannot be read, UserError if its size is another."""
        found = rgb(self.source, k)
        if found.shape[1::-1] != self.side:
            where, size = full_name(self.source, k), "{} x {}".format(*found.shape[1::-1])
            wanted = "{} x {}".format(*self.side)
            advice = f"dmd2 data prepare {self.source.where} -o OUT.zip --size {min(self.side)}"
            raise UserError(f"{where}: is {size}, and {wanted} is expected; {advice}")
        return found.transpose(2, 0, 1)

    def class_of(self, k: int) -> int | None:
        """Label of image k of the source. Raises UserError if there is no such class."""
        found = self.source.label(k) if self.labels else None
        if self.classes is not None and found is not None and found >= self.classes:
            raise UserError(f"{full_name(self.source, k)}: has label {found}, but classes is {self.classes}; raise it")
        return found

    def fingerprint(self) -> str:
        """SHA-256 of what the images are: see sources.source.fingerprint."""
        return fingerprint(self.source)

    def _first(self) -> int:
        """The first image of the source that can be read. Raises Corrupt if more cannot than max_corrupt."""
        for k in range(min(self.max_corrupt, len(self.source) - 1)):
            with suppress(Corrupt):
                rgb(self.source, k)
                return k
        rgb(self.source, k := min(self.max_corrupt, len(self.source) - 1))
        return k


def to_model(pixels: UInt8[np.ndarray, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """x = pixels / 127.5 - 1, in numpy, which starts no threads of its own in the threads that read."""
    x = pixels.astype(np.float32, order="C")
    x /= np.float32(127.5)
    x -= np.float32(1)
    return torch.from_numpy(x)


@dataclass(kw_only=True, eq=False)
class Captioned(ImageSet):
    """What those have in common that may have captions.

    captions: as conditions, in place of labels: true, or the name under which the data have them.
    """

    captions: bool | str = False

    def __post_init__(self) -> None:
        if self.captions is not False:
            if self.classes is not None:
                raise UserError("classes counts class labels, and captions takes captions; leave one of them out")
            self.labels = False
        super().__post_init__()

    def condition_of(self, k: int) -> Raw:
        return self.source.caption(k) if self.captions is not False else self.class_of(k)


@dataclass(kw_only=True, eq=False)
class Images(Captioned):
    """Images at a path, in any format that can be told from what is there.

    split: train, test, ... of formats that have splits.
    """

    path: str
    split: str = "train"

    def opened(self) -> Source:
        return open_source(self.path, self.split, self.labels, self.captions)


@dataclass(kw_only=True, eq=False)
class Cifar10(ImageSet):
    """CIFAR-10 from its own archive or the folder that it unpacks to. split: train, test or all."""

    path: str
    split: str = "train"

    def opened(self) -> Source:
        return cifar10(self.path, self.split)


@dataclass(kw_only=True, eq=False)
class Lmdb(ImageSet):
    """An LMDB of the official DMD2 layout. array, label: what its arrays of images and of labels are called."""

    path: str
    array: str = "images"
    label_array: str = "labels"

    def opened(self) -> Source:
        return LmdbRows(self.path, self.array, self.label_array if self.labels else None)


@dataclass(kw_only=True, eq=False)
class WebDataset(Captioned):
    """Tar shards: a folder, a file, or a pattern with *, {000..012} or %06d.

    image: extension of the images, null = any. label: extension of the members that hold a class number. captions: an
    extension, or a key in .json members; true = .txt, or one of the usual keys.
    """

    path: str
    image: str | None = None
    label: str = "cls"

    def opened(self) -> Source:
        return Shards(self.path, self.image, self.label if self.labels else None, self.captions)


@dataclass(kw_only=True, eq=False)
class HuggingFace(Captioned):
    """A Hugging Face data set on this machine: a folder of save_to_disk or of data files, or a name in its cache.

    image, label: columns; captions: another. config: which of the set's configurations.
    """

    path: str
    split: str = "train"
    image: str = "image"
    label: str = "label"
    config: str | None = None

    def opened(self) -> Source:
        label = self.label if self.labels else None
        return Hub(self.path, self.split, self.image, label, self.config, self.captions)
