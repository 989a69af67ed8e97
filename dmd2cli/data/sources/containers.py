"""Many files in one place: a folder or a zip, its members by position."""

from __future__ import annotations

import os
import zipfile
import zlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

from dmd2cli.data.corrupt import Corrupt
from dmd2cli.data.sources.ranges import Ranges
from dmd2cli.errors import UserError

HEADER = 30
"""Bytes of a zip member's own header before its name."""
ENCRYPTED = 1


class Container(Protocol):
    """Files by position, sorted by name."""

    @property
    def format(self) -> str:
        """folder or zip."""

    @property
    def where(self) -> str:
        """Its path."""

    @property
    def names(self) -> Sequence[str]:
        """Paths inside, with "/" between the parts."""

    def size(self, k: int) -> int:
        """Bytes of member k."""

    def read(self, k: int) -> bytes:
        """Member k. Raises Corrupt."""


class Folder:
    """The files below a folder; hidden ones and those of macOS are left out."""

    format = "folder"

    def __init__(self, path: str) -> None:
        self.where = path
        self.names: Sequence[str] = sorted(name for name in walk(path) if not hidden(name))

    def size(self, k: int) -> int:
        return os.stat(os.path.join(self.where, self.names[k])).st_size

    def read(self, k: int) -> bytes:
        path = os.path.join(self.where, self.names[k])
        try:
            return Path(path).read_bytes()
        except OSError as err:
            raise Corrupt(path, err.strerror or str(err)) from err


def walk(folder: str, under: str = "", seen: frozenset[str] = frozenset()) -> Iterator[str]:
    """Names of all files below a folder; links are followed, but not in circles."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from walk(entry.path, f"{under}{entry.name}/", seen | {real})
            elif entry.is_file():
                yield f"{under}{entry.name}"


def hidden(name: str) -> bool:
    """Files that systems leave beside people's own."""
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or any(part.startswith(".") for part in parts)


class Zip:
    """The files in a zip, stored or deflated.

    Its directory is read once; after that a member is a place in the file, so that threads need no lock and workers
    no directory of their own. Raises UserError for something that is no whole zip.
    """

    format = "zip"

    def __init__(self, path: str) -> None:
        self.where, self._ranges = path, Ranges()
        try:
            with zipfile.ZipFile(path) as file:
                members = [m for m in file.infolist() if not m.is_dir() and not hidden(m.filename)]
        except zipfile.BadZipFile as err:
            raise UserError(f"{path}: not a whole zip file ({err}); copy or download it again") from None
        members.sort(key=lambda member: member.filename)
        for member in members:
            if member.flag_bits & ENCRYPTED or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UserError(f"{path}: {member.filename} is encrypted or compressed unusually; zip it with -0")
        self.names: Sequence[str] = [member.filename for member in members]
        self._offsets = array("q", (member.header_offset for member in members))
        self._packed = array("q", (member.compress_size for member in members))
        self._sizes = array("q", (member.file_size for member in members))
        self._checks = array("q", (member.CRC for member in members))
        self._deflated = array("b", (member.compress_type == zipfile.ZIP_DEFLATED for member in members))

    def size(self, k: int) -> int:
        return self._sizes[k]

    def read(self, k: int) -> bytes:
        name = f"{self.where}/{self.names[k]}"
        try:
            header = self._ranges.read(self.where, self._offsets[k], HEADER)
            lengths = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))       # of name, of extras
            raw = self._ranges.read(self.where, self._offsets[k] + HEADER + sum(lengths), self._packed[k])
            found = zlib.decompress(raw, -zlib.MAX_WBITS) if self._deflated[k] else raw
        except (OSError, zlib.error) as err:
            raise Corrupt(name, str(err)) from err
        if len(found) != self._sizes[k] or zlib.crc32(found) != self._checks[k]:
            raise Corrupt(name, "its checksum differs")
        return found
