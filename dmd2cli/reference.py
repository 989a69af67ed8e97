"""What samples are compared with: images, or the mean and covariance of their features in a file."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from dmd2cli.cache import cache, sha256
from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError
from dmd2cli.features import Space
from dmd2cli.moments import Moments
from dmd2cli.pictures import Pictures, open_pictures
from dmd2cli.statistics import Statistics, load_npz, read_statistics, write_npz, write_statistics
from dmd2cli.views import View

PICKLES = {".pkl", ".pickle"}
STATISTICS = "statistics"
T = TypeVar("T")


class Reference:
    """A reference by its path: images in any format of `dmd2 data`, or an .npz with mu and sigma.

    What is computed from images is kept in the cache, under a name made of the data's fingerprint and the space's.
    images: mu and sigma are not enough. view: what is done to each image. Raises UserError for what cannot serve.
    """

    def __init__(self, path: str, space: Space, images: bool = False, view: View | None = None) -> None:
        self.path, self.space = Path(path).expanduser(), space
        if self.path.suffix in PICKLES:
            raise UserError(f"{path}: opening a pickle can run code; give an .npz with mu and sigma, or images")
        found = read_statistics(self.path) if self.path.suffix == ".npz" and self.path.is_file() else None
        self.given = _checked(found, self.path, space, view) if found is not None and not images else None
        mixed = view is not None and view.least is not None
        try:
            self.pictures = open_pictures(self.path, view, mixed) if self.given is None else None
        except UserError as err:
            if found is None:
                raise
            raise UserError(f"{path}: has mu and sigma alone; give the images themselves as the reference") from err

    @property
    def about(self) -> dict[str, Any]:
        """What a result says of its reference. "images" is None, and "space" "unstated", where a file does not say."""
        if self.pictures is not None:
            facts = {"images": len(self.pictures), "space": self.space.extractor.name}
            return {"path": str(self.path), **facts, "data": self.pictures.fingerprint}
        assert self.given is not None
        note = self.given.note
        facts = {"images": note.get("images"), "space": note.get("space", "unstated"), "data": note.get("data")}
        return {"path": str(self.path), **facts, "sha256": sha256(self.path)}

    @cached_property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of its images; None where they differ, or a file of statistics does not say."""
        if self.pictures is not None:
            return self.pictures.size if not self.pictures.mixed else None
        assert self.given is not None
        return tuple(self.given.note["size"]) if "size" in self.given.note else None

    def fits(self, images: Tensor, metric: str) -> None:
        """Raise UserError unless images (b, 3, h, w) have the size of the reference's, if that is known."""
        own, (height, width) = self.size, images.shape[2:]
        if own not in (None, (height, width)):
            raise UserError(
                f"{metric}: the samples are {width} x {height}, the images of {self.path} {own[1]} x {own[0]}; "
                "compare images of one size"
            )

    def statistics(self) -> Statistics:
        """Mean and covariance of its features."""
        return self.given if self.given is not None else _statistics(self._pictures, self.space)

    @property
    def kept(self) -> str | None:
        """Where the statistics of its images are kept: an .npz that is a reference itself."""
        return str(_place(self.pictures, self.space, STATISTICS)) if self.pictures is not None else None

    def vectors(self, most: int) -> Float[Tensor, "m d"]:
        """The features of its images, on the CPU; of `most` of them, drawn by a fixed seed, if there are more."""
        return _vectors(self._pictures, self.space, most)

    def bootstrap(self, n: int, seed: int) -> Iterator[Tensor]:
        """Batches of n images, drawn with replacement."""
        pictures, source = self._pictures, Rng(seed, 0).generator("bootstrap", torch.device("cpu"))
        yield from pictures.draw(torch.randint(len(pictures), (n,), generator=source).tolist())

    @property
    def _pictures(self) -> Pictures:
        assert self.pictures is not None, "a reference of mu and sigma has no images"
        return self.pictures


def _checked(found: Statistics, path: Path, space: Space, view: View | None) -> Statistics:
    """The statistics of a file. Raises UserError if they are of another space, or of images seen otherwise."""
    own, seen = space.extractor, view.name if view is not None else None
    if found.note and found.note.get("view") != seen:
        was = f"prepared as {found.note.get('view') or 'they are'}, not as {seen or 'they are'}"
        raise UserError(f"{path}: of images {was}; make it again from images")
    if found.note and found.note["fingerprint"] != own.fingerprint:
        other = f"{found.note['space']} ({found.note['fingerprint']})"
        raise UserError(f"{path}: of the space {other}, not {own.name} ({own.fingerprint}); make it again from images")
    if len(found.mu) != own.dims:
        raise UserError(f"{path}: has {len(found.mu)} features, {own.name} has {own.dims}; it is of another space")
    return found


@lru_cache(maxsize=4)
def _statistics(pictures: Pictures, space: Space) -> Statistics:
    path = _place(pictures, space, STATISTICS)
    if (kept := _kept(lambda: read_statistics(path))) is not None:
        return kept
    own, moments = space.extractor, Moments(space.extractor.dims, space.device)
    for images in pictures.draw(range(len(pictures))):
        moments.update(space(images).vectors)
    if moments.n < 2:
        raise UserError(f"{pictures.path}: has one image, and a covariance needs two at least")
    note = {"space": own.name, "fingerprint": own.fingerprint, "images": moments.n, "data": pictures.fingerprint}
    size = {"size": list(pictures.size)} if not pictures.mixed else {}
    seen = {"view": pictures.view.name} if pictures.view is not None else {}
    found = Statistics(*moments.numpy(), {**note, **size, **seen})
    _keep(lambda: write_statistics(path, found))
    return found


@lru_cache(maxsize=2)
def _vectors(pictures: Pictures, space: Space, most: int) -> Tensor:
    path, numbers = _place(pictures, space, f"vectors {most}"), list(range(len(pictures)))
    if (kept := _kept(lambda: load_npz(path, ["vectors"])["vectors"])) is not None:
        return torch.from_numpy(kept)
    if len(numbers) > most:
        source = Rng(0, 0).generator("reference", torch.device("cpu"))
        numbers = torch.randperm(len(numbers), generator=source)[:most].sort().values.tolist()
    found = torch.cat([space(images).vectors.cpu() for images in pictures.draw(numbers)])
    _keep(lambda: write_npz(path, {"vectors": found.numpy()}))
    return found


def _place(pictures: Pictures, space: Space, what: str) -> Path:
    seen = [pictures.view.name] if pictures.view is not None else []
    facts = json.dumps([pictures.fingerprint, pictures.changed, space.extractor.fingerprint, what, *seen])
    return cache("references", f"{hashlib.sha256(facts.encode()).hexdigest()[:32]}.npz")


def _kept(read: Callable[[], T | None]) -> T | None:
    """What is in the cache; None if it is not there, or damaged, and has to be made again."""
    try:
        return read()
    except (UserError, KeyError):
        return None


def _keep(write: Callable[[], None]) -> None:
    """Without a place to write, it is made again next time."""
    try:
        write()
    except OSError as err:
        print(f"note: reference not kept: {err.filename}: {err.strerror}; set DMD2_CACHE", file=sys.stderr)
