"""Files that are whole or not there, also after a crash: written beside their place, synced, renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from dmd2cli.errors import UserError

SPARE = 1.05
"""Free space that is asked for, as a multiple of what the tensors take: headers, and what others write meanwhile."""


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    draft = path.with_name(f".{path.name}.tmp")
    try:
        draft.write_text(text)
        sync(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Return when a file, or the names in a folder, would survive a power cut."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as err:
        if err.errno not in (errno.EINVAL, errno.ENOTSUP):      # file systems that cannot sync a folder
            raise
    finally:
        os.close(number)


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def room(folder: Path, size: int, what: str = "a checkpoint") -> None:
    """Raise UserError unless `size` bytes and 5 % fit on the disk of a folder, which need not be there yet.

    A file system that does not say how much is free is taken at its word when it is full.
    """
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    try:
        usage = shutil.disk_usage(place)
    except OSError:
        return
    if usage.total and usage.free < SPARE * size:
        raise UserError(
            f"{folder}: the disk is full: {what} needs {gib(SPARE * size)}, and {gib(usage.free)} are free; "
            "free some space, or take another disk with -o; what is saved so far is intact"
        )


def gib(size: float) -> str:
    """Bytes as a person reads them."""
    return f"{size / 2**30:.3g} GiB"
