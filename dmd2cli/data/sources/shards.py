"""WebDataset: tar shards whose members of one base name belong together, an image and its label or caption."""

from __future__ import annotations

import glob
import os
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from PIL import Image

from dmd2cli.data.corrupt import Corrupt
from dmd2cli.data.sources.captions import Wanted, as_row, as_text, value
from dmd2cli.data.sources.ranges import Ranges
from dmd2cli.data.sources.source import SUFFIXES, decode
from dmd2cli.data.sources.tar_index import Member, index
from dmd2cli.errors import UserError

BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
NUMBER = re.compile(r"%0?\d*d")


class Shards:
    """The images of tar shards by position: shard after shard, in the order within each.

    path: a tar, a folder of them, or a pattern with *, {000..012} or %06d. image: extension of the images, null = any.
    label: extension of the members that hold a class number as text, None = not read. captions: extension of those
    that hold a caption, or the key of it in .json members; True: .txt, or the usual keys. Raises UserError for a
    damaged or missing shard, and for labels or captions that some images lack.
    """

    format = "webdataset"
    classes: Sequence[str] = ()

    def __init__(
        self, path: str, image: str | None = None, label: str | None = "cls", captions: Wanted = False
    ) -> None:
        self.where, self._ranges, self._wanted = path, Ranges(), captions
        self.shards = expand(path)
        self._shard, self._offset, self._size = array("q"), array("q"), array("q")
        self._names, self._labels = list[str](), array("q")
        self._texts = list[Member]()
        lacking = None
        for number, shard in enumerate(self.shards):
            for member, others in grouped(index(shard), image):
                self._shard.append(number)
                self._offset.append(member.offset)
                self._size.append(member.size)
                self._names.append(member.name)
                if label not in others:
                    lacking = lacking or f"{shard}/{member.name}"
                else:
                    self._labels.append(class_number(others[label].text, f"{shard}/{member.name}", label))
                if captions is not False:
                    self._texts.append(text_member(others, captions, f"{shard}/{member.name}"))
        if lacking and self._labels:
            raise UserError(f"{lacking}: has no .{label} member, others have; add it, or set labels=false")

    def __len__(self) -> int:
        return len(self._names)

    def name(self, i: int) -> str:
        return f"{os.path.basename(self.shards[self._shard[i]])}/{self._names[i]}"

    def label(self, i: int) -> int | None:
        return self._labels[i] if self._labels else None

    def size(self, i: int) -> int:
        return self._size[i]

    def raw(self, i: int) -> bytes:
        return self._read(i, self._names[i], self._offset[i], self._size[i])

    def caption(self, i: int) -> str | None:
        if not self._texts:
            return None
        member = self._texts[i]
        where = f"{self.shards[self._shard[i]]}/{member.name}"
        text = as_text(self._read(i, member.name, member.offset, member.size), where)
        return value(as_row(text, where), keys(self._wanted), where) if member.name.endswith(".json") else text

    def _read(self, i: int, name: str, offset: int, size: int) -> bytes:
        """A member of the shard of item i."""
        shard = self.shards[self._shard[i]]
        try:
            found = self._ranges.read(shard, offset, size)
        except OSError as err:
            raise Corrupt(f"{shard}/{name}", err.strerror or str(err)) from err
        if len(found) != size:
            raise Corrupt(f"{shard}/{name}", "the shard ends inside it")
        return found

    def image(self, i: int) -> Image.Image:
        return decode(self.raw(i), f"{self.where}/{self.name(i)}")


def is_pattern(path: str) -> bool:
    """Does a path stand for several tars?"""
    return path.endswith(".tar") and bool(BRACES.search(path) or NUMBER.search(path) or set("*?[") & set(path))


def expand(path: str) -> list[str]:
    """The shards that a path stands for, sorted. Raises UserError if one of a range is missing, or there is none."""
    if os.path.isdir(path):
        found = sorted(str(file) for file in Path(path).glob("*.tar"))
    elif (braces := BRACES.search(path)) is not None:
        first, last = braces.groups()
        numbers = (f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1))
        return [shard for n in numbers for shard in expand(f"{path[: braces.start()]}{n}{path[braces.end() :]}")]
    elif is_pattern(path):
        found = sorted(glob.glob(NUMBER.sub("[0-9]*", path)))
    else:
        found = [path] if os.path.isfile(path) else []
    if not found:
        raise UserError(f"{path}: no such tar; name a file, a folder of them, or a pattern like set-{{000..012}}.tar")
    return found


def grouped(members: Sequence[Member], image: str | None) -> Iterator[tuple[Member, dict[str | None, Member]]]:
    """(image, members by extension) of every group of members with one base name that has an image."""
    for _, group in groupby(members, key=lambda member: split(member.name)[0]):
        parts: dict[str | None, Member] = {split(member.name)[1]: member for member in group}
        wanted = [image] if image is not None else [kind for kind in parts if f".{kind}" in SUFFIXES]
        found = next((parts[kind] for kind in wanted if kind in parts), None)
        if found is not None:
            yield found, parts


def text_member(parts: Mapping[str | None, Member], wanted: Wanted, where: str) -> Member:
    """Which of the members of an image holds its caption. Raises UserError if none does."""
    kinds = [wanted, "json"] if isinstance(wanted, str) else ["txt", "json"]
    for kind in kinds:
        if kind in parts:
            return parts[kind]
    raise UserError(f"{where}: has no caption, neither .{' nor .'.join(dict.fromkeys(kinds))}; add it")


def keys(wanted: Wanted) -> Wanted:
    """The key of a caption in a .json member; the usual ones where only the extension was named."""
    return True if wanted == "json" else wanted


def split(name: str) -> tuple[str, str]:
    """(base name, extension) as WebDataset has it: the extension begins at the first dot after the last slash."""
    folder, slash, file = name.rpartition("/")
    base, _, kind = file.partition(".")
    return f"{folder}{slash}{base}", kind.lower()


def class_number(text: str, where: str, label: str | None) -> int:
    """A label from the text of a member. Raises UserError if it is something else."""
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"{where}: its .{label} is {text!r}, no class number; set label to another extension")
    return int(text)
