"""CIFAR-10 as it is published (Krizhevsky 2009): the Python or the binary version, packed or unpacked.

The Python version is pickles. They are read by dmd2cli.unpickle, which runs nothing that is in them.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmd2cli.data.sources.arrays import Rows
from dmd2cli.errors import UserError
from dmd2cli.unpickle import Name, Reader, Recorded

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN, TEST = tuple(f"data_batch_{i}" for i in range(1, 6)), ("test_batch",)
SPLITS = {"train": TRAIN, "test": TEST, "all": TRAIN + TEST}
SIDE = 32
VALUES = 3 * SIDE**2
MULTIARRAY = {f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")}
"""What numpy's pickles call to make an array."""


def cifar10(path: str, split: str = "train") -> Rows:
    """The images of CIFAR-10: train, test or all. path: cifar-10-*.tar.gz or its folder. Raises UserError."""
    if split not in SPLITS:
        raise UserError(f"{path}: split must be one of {', '.join(SPLITS)}, got '{split}'")
    found = (of_folder if Path(path).is_dir() else of_archive)(path, SPLITS[split])
    parts, images, labels, n = list[tuple[str, int]](), [], [], 0
    for name in SPLITS[split]:
        held = next((key for key in (name, f"{name}.bin") if key in found), None)
        if held is None:
            raise UserError(f"{path}: {name} is not in it; get cifar-10-python.tar.gz or cifar-10-binary.tar.gz")
        x, y = (binary if held.endswith(".bin") else pickled)(found[held], f"{path}/{held}")
        parts.append((held, n))
        images.append(x)
        labels.append(y)
        n += len(x)
    rows = np.concatenate(images).reshape(n, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return Rows("cifar10", path, rows, np.concatenate(labels), CLASSES, parts)


def looks_like(names: set[str]) -> bool:
    """Do these file names say that they are CIFAR-10?"""
    return bool({TRAIN[0], f"{TRAIN[0]}.bin"} & names)


def of_folder(path: str, wanted: tuple[str, ...]) -> Mapping[str, bytes]:
    """The batches in a folder, or in the one that the archive unpacks to."""
    files = {file.name: file for file in [*Path(path).glob("*"), *Path(path).glob("cifar-10-batches-*/*")]}
    return {name: file.read_bytes() for name, file in files.items() if name.removesuffix(".bin") in wanted}


def of_archive(path: str, wanted: tuple[str, ...]) -> Mapping[str, bytes]:
    """The batches in an archive, read in memory: nothing is unpacked to the disk."""
    try:
        with tarfile.open(path, "r:*") as file:
            members = {member.name.rpartition("/")[2]: member for member in file if member.isfile()}
            kept = {name: member for name, member in members.items() if name.removesuffix(".bin") in wanted}
            return {name: part.read() for name, member in kept.items() if (part := file.extractfile(member))}
    except (tarfile.TarError, OSError, EOFError, zlib.error) as err:
        raise UserError(f"{path}: not a whole tar archive ({err}); download it again") from None


def binary(raw: bytes, where: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(images (n, 3072), labels) of a binary batch: records of a label and 3072 values."""
    if not raw or len(raw) % (VALUES + 1):
        raise UserError(f"{where}: {len(raw)} bytes are no whole records of {VALUES + 1}; download it again")
    records = np.frombuffer(raw, np.uint8).reshape(-1, VALUES + 1)
    return records[:, 1:], labels_of(records[:, 0].tolist(), len(records), where)


def pickled(raw: bytes, where: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(images (n, 3072), labels) of a pickled batch: a dict with data, a numpy array, and labels, a list."""
    reader = Reader(where, MULTIARRAY | {"numpy.ndarray", "numpy.dtype"})
    found = reader.read(io.BytesIO(raw))
    batch = {as_text(key): value for key, value in found.items()} if type(found) is dict else {}
    if not {"data", "labels"} <= batch.keys():
        raise UserError(f"{where}: no batch of CIFAR-10: data and labels are missing; download it again")
    values = uint8_array(batch["data"], where)
    return values, labels_of(batch["labels"], len(values), where)


def as_text(key: Any) -> str:
    """A key that Python 2 wrote as bytes or Python 3 as text."""
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


def uint8_array(found: Any, where: str) -> NDArray[np.uint8]:
    """The array that a pickle describes: a call of numpy's, noted down, with state (1, shape, dtype, order, bytes)."""
    try:
        assert found.name in MULTIARRAY and found.args[0] == Name("numpy.ndarray")
        _, (n, values), dtype, fortran, raw = found.state
        assert type(dtype) is Recorded and dtype.name == "numpy.dtype" and dtype.args[0] in ("u1", b"u1")
        data = raw if isinstance(raw, bytes) else raw.encode("latin1")
        assert type(fortran) in (bool, int) and values == VALUES and len(data) == n * VALUES
    except (AssertionError, AttributeError, TypeError, ValueError, IndexError, UnicodeEncodeError):
        raise UserError(f"{where}: data is no array of {VALUES} bytes a row; download it again") from None
    rows = np.frombuffer(data, np.uint8)
    return rows.reshape(VALUES, n).T if fortran else rows.reshape(n, VALUES)


def labels_of(found: Any, n: int, where: str) -> NDArray[np.int64]:
    """Labels 0 ... 9, one for each image."""
    ours = isinstance(found, list) and len(found) == n
    if not ours or not all(type(label) is int and 0 <= label < len(CLASSES) for label in found):
        raise UserError(f"{where}: labels are not {n} numbers from 0 to 9; download it again")
    return np.array(found, np.int64)
