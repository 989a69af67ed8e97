"""Where files lie that can be made or fetched again: weights of feature extractors, statistics of reference images."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def cache(*parts: str) -> Path:
    """A path below $DMD2_CACHE, or else below $XDG_CACHE_HOME/dmd2 or ~/.cache/dmd2. Nothing is created."""
    own, shared = os.environ.get("DMD2_CACHE"), os.environ.get("XDG_CACHE_HOME")
    root = Path(own) if own else Path(shared or "~/.cache") / "dmd2"
    return root.expanduser().joinpath(*parts)


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()
