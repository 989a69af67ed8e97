"""Where the members of a tar lie, found once and remembered: a tar itself has no list of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tarfile
from dataclasses import astuple, dataclass
from pathlib import Path

from dmd2cli.cache import cache
from dmd2cli.errors import UserError

FORMAT = 1
TEXT = 20
"""Members of at most so many bytes are kept in the index: the labels."""


@dataclass(frozen=True)
class Member:
    """A file in a tar. text: all of it, if it is tiny."""

    name: str
    offset: int
    size: int
    text: str = ""


def index(path: str) -> list[Member]:
    """The files in a tar, in its order; from the cache if the tar has not changed since.

    Raises UserError if it is compressed, cut short or no tar.
    """
    found = os.stat(path)
    stamp = [FORMAT, found.st_size, found.st_mtime_ns]
    kept = cached(path)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):        # missing or damaged: made again
        held = json.loads(kept.read_text(encoding="utf-8"))
        if held["stamp"] == stamp:
            return [Member(*member) for member in held["members"]]
    members = scan(path)
    with contextlib.suppress(OSError):                                         # no place for it: scanned each time
        kept.parent.mkdir(parents=True, exist_ok=True)
        draft = kept.with_name(f".{kept.name}.{os.getpid()}.tmp")
        draft.write_text(json.dumps({"stamp": stamp, "members": [astuple(m) for m in members]}), encoding="utf-8")
        os.replace(draft, kept)
    return members


def cached(path: str) -> Path:
    """The file that remembers the index of a tar."""
    return cache("tars", f"{hashlib.sha256(os.path.realpath(path).encode()).hexdigest()[:32]}.json")


def scan(path: str) -> list[Member]:
    """The files in a tar, by reading all of its headers."""
    found = list[Member]()
    try:
        with tarfile.open(path, "r:") as file:
            while (member := file.next()) is not None:
                file.members = []                          # type: ignore[attr-defined]  # else all stay in memory
                if member.isreg():
                    part = file.extractfile(member) if member.size <= TEXT else None
                    text = part.read().decode("ascii", "replace").strip() if part else ""
                    found.append(Member(member.name, member.offset_data, member.size, text))
            end = file.offset
    except tarfile.TarError as err:
        raise UserError(f"{path}: not a whole tar ({err}); copy it again, or unpack it if it is compressed") from None
    check_end(path, end)
    return found


def check_end(path: str, end: int) -> None:
    """Raise UserError unless the block after the last member marks the end: the reader stops at damage silently."""
    with open(path, "rb") as file:
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE or any(block):
            raise UserError(f"{path}: cut short or damaged at byte {end}; copy or download it again")
