"""The format of a path, from what is there."""

from __future__ import annotations

import os
import tarfile
import zlib

from dmd2cli.data.sources import cifar
from dmd2cli.data.sources.arrays import npz
from dmd2cli.data.sources.captions import Wanted
from dmd2cli.data.sources.containers import Folder, Zip
from dmd2cli.data.sources.hub import SAVED, Hub
from dmd2cli.data.sources.labelled import encoded
from dmd2cli.data.sources.lmdb_rows import LmdbRows
from dmd2cli.data.sources.shards import Shards, is_pattern
from dmd2cli.data.sources.source import Source
from dmd2cli.errors import UserError

KINDS = "a folder of images, .zip, .npz, .tar, an LMDB, CIFAR-10's archive or a folder of save_to_disk"


def open_source(path: str, split: str = "train", labels: bool = True, captions: Wanted = False) -> Source:
    """The images at a path, whatever format they are in. split: of those formats that have splits. labels: read them.

    captions: read them, under one of their usual names or the one given. Raises UserError if nothing is there, it is
    damaged, holds no image, or no caption where one is wanted.
    """
    path = os.path.expanduser(path)
    found = (of_folder if os.path.isdir(path) else of_file)(path, split, labels, captions)
    if not len(found):
        raise UserError(f"{path}: no images in it; expected {KINDS}")
    if captions is not False and found.caption(0) is None:
        raise UserError(f"{path}: images of this format ({found.format}) have no captions here; leave captions out")
    return found


def of_folder(path: str, split: str, labels: bool, captions: Wanted) -> Source:
    """The images of a folder."""
    names = set(os.listdir(path))
    if "data.mdb" in names:
        return LmdbRows(path, labels="labels" if labels else None)
    if names & set(SAVED):
        return Hub(path, split, label="label" if labels else None, captions=captions)
    if cifar.looks_like(names) or any(name.startswith("cifar-10-batches-") for name in names):
        return cifar.cifar10(path, split)
    if any(name.endswith(".tar") for name in names):
        return Shards(path, label="cls" if labels else None, captions=captions)
    return encoded(Folder(path), labels, captions)


def of_file(path: str, split: str, labels: bool, captions: Wanted) -> Source:
    """The images of a file."""
    if is_pattern(path):
        return Shards(path, label="cls" if labels else None, captions=captions)
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file or folder; expected {KINDS}")
    kind = os.path.splitext(path)[1].lower()
    if kind == ".zip":
        return encoded(Zip(path), labels, captions)
    if kind == ".npz":
        return npz(path, labels)
    if kind in (".mdb", ".lmdb"):
        return LmdbRows(path, labels="labels" if labels else None)
    if path.endswith((".tar", ".tar.gz", ".tgz")):
        if is_cifar(path):
            return cifar.cifar10(path, split)
        return Shards(path, label="cls" if labels else None, captions=captions)
    raise UserError(f"{path}: a format that is not known; expected {KINDS}")


def is_cifar(path: str) -> bool:
    """Is a tar that of CIFAR-10? Only its first members are looked at."""
    try:
        with tarfile.open(path, "r:*") as file:
            names = {member.name for member, _ in zip(file, range(8), strict=False)}
    except (tarfile.TarError, OSError, EOFError, zlib.error):
        return False
    return any("cifar-10-batches" in name for name in names)
