"""Files of reference statistics: an .npz with mu and sigma, ours with a note of how they were made."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dmd2cli.errors import UserError

NOTE = "dmd2"
"""The array, a JSON string, that says how a file of ours was made."""


@dataclass(frozen=True)
class Statistics:
    """Mean mu (d,) and covariance sigma (d, d) of features, float64."""

    mu: np.ndarray
    sigma: np.ndarray
    note: Mapping[str, Any] = field(default_factory=dict)
    """{"space", "fingerprint", "images", "size", "data"} of files of ours; {} of others, such as EDM's."""


def read_statistics(path: Path) -> Statistics | None:
    """The statistics in an .npz, None if it has no mu and sigma. Raises UserError if they do not fit each other."""
    arrays = load_npz(path, ("mu", "sigma", NOTE))
    if not {"mu", "sigma"} <= arrays.keys():
        return None
    mu, sigma = (np.asarray(arrays[name], dtype=np.float64) for name in ("mu", "sigma"))
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)) or not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UserError(f"{path}: mu {mu.shape} and sigma {sigma.shape} are no mean and covariance of finite numbers")
    return Statistics(mu, sigma, json.loads(str(arrays[NOTE])) if NOTE in arrays else {})


def write_statistics(path: Path, found: Statistics) -> None:
    """An .npz that read_statistics reads, and so does EDM's own script: mu, sigma and the note."""
    write_npz(path, {"mu": found.mu, "sigma": found.sigma, NOTE: np.array(json.dumps(found.note))})


def load_npz(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Some arrays of an .npz, those that are there. UserError if it is none, or they hold objects, which run code."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files if name in names}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as err:
        raise UserError(f"{path}: not an .npz of plain arrays ({err}); make it again or restore a copy") from err


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Whole or not at all, also where two processes write the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            np.savez(file, **arrays)                                                # type: ignore[arg-type]
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)

