"""A set of numbered images on disk: PNG files that say how they were made, and all of them in one zip or npz.

    DIR/000000.png, ...    each with a text "dmd2": {"made", "condition", "drawn"}
    FILE.zip               00000/img00000000.png, ... and dataset.json with the labels: the layout of EDM's data sets
    FILE.npz               arr_0 uint8 (n, h, w, 3), and arr_1 the labels if there are some: the layout of ADM's script
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dmd2cli.data.pack import MADE, Record, Target, write_zip, zip_member
from dmd2cli.data.pair_files import difference
from dmd2cli.data.sources.labelled import LISTED
from dmd2cli.errors import UserError
from dmd2cli.images import file_of, read_note
from dmd2cli.protocols import Raw

PACKED = (".zip", ".npz")
NUMBERED = re.compile(r"(\d{6,})\.png")


@dataclass(frozen=True)
class ImageSet:
    """Images 0 to len(raw) - 1 in a folder. made: how, in JSON values; raw: the condition of each."""

    folder: Path
    made: Mapping[str, Any]
    raw: Sequence[Raw]
    seeds: Sequence[int] | None = None
    """Of each image, where they differ."""
    drawn: Callable[[int], Mapping[str, Any]] | None = None
    """What else a file says of its image."""

    def claim(self, number: int) -> dict[str, Any]:
        """What an image is a function of."""
        own = {} if self.seeds is None else {"seeds": self.seeds[number]}
        return {"made": {**self.made, **own}, "condition": self.raw[number]}

    def note(self, number: int) -> str:
        """What the file of an image says of it."""
        more = {} if self.drawn is None else {"drawn": self.drawn(number)}
        return json.dumps({**self.claim(number), **more})

    def numbers(self) -> set[int]:
        """The numbers of the images that are there, by name."""
        try:
            names = (NUMBERED.fullmatch(entry.name) for entry in os.scandir(self.folder))
            return {int(name[1]) for name in names if name is not None and int(name[1]) < len(self.raw)}
        except FileNotFoundError:
            return set()

    def there(self) -> set[int]:
        """The same, looked into. Raises UserError for the first image that was made otherwise."""
        found = self.numbers()
        for number in sorted(found):
            self.check(file_of(self.folder, number), number)
        return found

    def check(self, path: Path, number: int) -> None:
        """Raise UserError unless a file is that image, or gone since: packed by another process."""
        held = read_note(path)
        if held is None and path.exists():
            raise UserError(f"{path}: was not made by dmd2 sample, or is damaged; remove it, or choose another -o")
        if held is not None:
            said = {key: value for key, value in json.loads(held).items() if key != "drawn"}
            refuse(path, said, json.loads(json.dumps(self.claim(number))))


def refuse(path: Path, held: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise UserError naming the first difference, if there is one."""
    if (found := difference(held, asked)) is not None:
        key, old, new = found
        what = f"made with {key.removeprefix('made.')} = {old!r}, now it is {new!r}"
        raise UserError(f"{path}: {what}; take the old value to continue, or choose another -o")


def packed(out: Path, found: ImageSet) -> bool:
    """Whether the file is there, whole. Raises UserError if it holds something else."""
    if not out.exists():
        return False
    try:
        with zipfile.ZipFile(out) as file:
            held = json.loads(file.read(LISTED))[MADE] if out.suffix == ".zip" else json.loads(file.comment)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        raise UserError(f"{out}: is there already, not made by dmd2 sample; choose another -o") from None
    refuse(out, held, json.loads(json.dumps(whole(found))))
    return True


def whole(found: ImageSet) -> dict[str, Any]:
    """What a file says of a set; the conditions of its images as one digest."""
    conditions = hashlib.sha256(json.dumps(list(found.raw)).encode()).hexdigest()[:16]
    seeds = {} if found.seeds is None else {"seeds": list(found.seeds)}
    return {"made": dict(found.made), "n": len(found.raw), "conditions": conditions, **seeds}


def finish(found: ImageSet, out: Path) -> bool:
    """Whether all images are there now; if they are, and a file was asked for, it is packed."""
    complete = len(found.numbers()) == len(found.raw)
    if complete and out.suffix in PACKED:
        pack(found, out)
    return complete or (out.suffix in PACKED and out.exists())


def pack(found: ImageSet, out: Path) -> None:
    """All images as one file, written whole or not at all; the folder is removed. Memory holds one image at a time.

    Two processes may do it at once: they write the same bytes.
    """
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        (zipped if out.suffix == ".zip" else arrays)(found, draft)
        os.replace(draft, out)
    except FileNotFoundError:
        if not out.exists():                                   # else another process has packed and removed them
            raise
    finally:
        draft.unlink(missing_ok=True)
    shutil.rmtree(found.folder, ignore_errors=True)


def zipped(found: ImageSet, path: Path) -> None:
    """In EDM's layout."""
    write_zip(Target(path), records(found), whole(found))


def records(found: ImageSet) -> Iterator[Record]:
    """Every image as it is on disk, with its label or caption."""
    for number, condition in enumerate(found.raw):
        label = condition if isinstance(condition, int) else None
        caption = condition if isinstance(condition, str) else None
        yield Record(number, file_of(found.folder, number).read_bytes(), label, caption)


def arrays(found: ImageSet, path: Path) -> None:
    """In ADM's layout; how it was made is the comment of the file, which is a zip."""
    height, width = pixels(found, 0).shape[:2]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.comment = json.dumps(whole(found)).encode()
        with file.open(zip_member("arr_0.npy"), "w", force_zip64=True) as member:
            write_header(member, (len(found.raw), height, width, 3), np.dtype(np.uint8))
            for number in range(len(found.raw)):
                member.write(pixels(found, number).tobytes())
        labels = [c for c in found.raw if isinstance(c, int)]
        if len(labels) == len(found.raw):
            with file.open(zip_member("arr_1.npy"), "w") as member:
                np.lib.format.write_array(member, np.array(labels, dtype=np.int64), allow_pickle=False)


def write_header(member: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Of a .npy file in C order."""
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, facts)


def pixels(found: ImageSet, number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """One image (h, w, 3)."""
    with Image.open(file_of(found.folder, number)) as image:
        return np.asarray(image.convert("RGB"))
