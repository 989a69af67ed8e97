"""Files that other programs wrote: what they are, told by their first bytes, and state dicts by weights_only."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dmd2cli.errors import UserError

_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How every file of torch.save began before it wrote zips: a pickle of its magic number."""


def kind(path: Path) -> Literal["torch", "pickle", "other"]:
    """A file of torch.save, a bare pickle, or something else. Raises UserError if it is missing, empty or cut."""
    if not path.is_file():
        what = "is a folder; name a file in it" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what}")
    with path.open("rb") as file:
        start = file.read(len(_OLD_TORCH))
    if not start:
        raise UserError(f"{path}: is empty; copy or download it again")
    if start.startswith(b"PK\x03\x04"):
        return "torch" if _holds_pickle(path) else "other"
    if start == _OLD_TORCH:
        return "torch"
    return "pickle" if start[0] == 0x80 and start[1:2] in {b"\2", b"\3", b"\4", b"\5"} else "other"


def _holds_pickle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return any(name.endswith("/data.pkl") for name in file.namelist())
    except zipfile.BadZipFile:
        raise UserError(f"{path}: a zip that is cut or damaged; copy or download it again") from None


def load(path: Path, device: str = "cpu") -> Any:
    """What torch.save wrote, zip or older, by torch's reader for weights only. device: "meta" reads shapes only.

    Raises UserError if the file is damaged, or names anything that this reader does not allow.
    """
    try:
        return torch.load(path, device, weights_only=True, mmap=device == "cpu" and zipfile.is_zipfile(path))
    except Exception as err:                               # there is no end to what a damaged file may raise
        raise UserError(f"{path}: {_why(err)}") from err


def state_dict(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors by name in a file of torch.save. Raises UserError if it is damaged, or holds anything else."""
    found = load(path, device)
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise UserError(f"{path}: not a state dict: more than tensors by name is in it; save the model's state_dict()")
    return {str(name): tensor for name, tensor in found.items()}


def _why(err: Exception) -> str:
    """In one line, why torch.load did not read a file."""
    if name := re.search(r"GLOBAL:? ?([\w.]+)", str(err)):
        return (
            f"wants {name[1]}, which no file of weights needs; nothing was executed; "
            "get the file from its publisher again, or leave it alone"
        )
    return f"not a whole file of torch.save ({type(err).__name__}); copy or download it again"


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
