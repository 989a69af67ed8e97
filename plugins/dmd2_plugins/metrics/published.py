"""Files of weights that others publish: what they are called, where they come from, what they hash to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmd2cli.cache import cache
from dmd2cli.errors import UserError
from dmd2cli.weights import read_weights

REFUSED = {".pkl", ".pickle"}


@dataclass(frozen=True)
class Published:
    """One file; sha256 in hexadecimal, of its bytes."""

    file: str
    size: int
    """In bytes."""
    sha256: str
    publisher: str
    url: str

    @property
    def place(self) -> Path:
        """Where it is looked for if nobody says where it is."""
        return cache("weights", self.file)

    def find(self, weights: str | None, asking: str) -> Path:
        """The named file, or the one in its place. Raises UserError if there is none, with all that is needed for one.

        asking: who needs it, for the message.
        """
        path = Path(weights).expanduser() if weights else self.place
        if path.suffix in REFUSED:
            raise UserError(f"{path}: a pickle, as NVIDIA's {path.name}, can run code and is not read; {self.advice}")
        if not path.is_file():
            raise UserError(f"{asking}: {path}: no such file, and nothing is downloaded here; {self.advice}")
        return path

    @property
    def advice(self) -> str:
        """What to get, from where, and where to put it."""
        return (
            f"get {self.file} of {self.publisher}, {self.size:,} bytes, SHA-256 {self.sha256}, from {self.url} and put "
            f"it at {self.place}, or name it: --weights FILE"
        )


def read_state(path: Path, published: Published) -> Mapping[str, Tensor]:
    """The state dict in a .safetensors, or in what torch.save wrote, read as tensors alone. UserError if it is none."""
    if path.suffix == ".safetensors":
        return read_weights(path)
    try:
        found: Any = torch.load(path, "cpu", weights_only=True)
    except Exception as err:                               # there is no end to what a damaged file may raise
        why = f"{type(err).__name__}: cut short, or it holds more than tensors"
        raise UserError(f"{path}: not readable as weights ({why}); {published.advice}") from err
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"{path}: holds no weights by name; {published.advice}")
    return found


