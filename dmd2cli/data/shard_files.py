"""Numbered things in shards on disk: files that say what they are, and a manifest of those in a folder.

    pairs-000003000.safetensors    tensors with one row for each of the things 3000, 3001, ...; its metadata has their
                                   conditions and the contract, so that a shard copied elsewhere is enough
    manifest.json                  the contract, the range that is wanted, size and SHA-256 of every shard there is

The contract is what thing i is a function of, besides i.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dmd2cli.errors import UserError
from dmd2cli.protocols import Raw

MANIFEST = "manifest.json"
OPEN = 64
"""Shards that are kept open; they are mapped, not read."""

Header = Mapping[str, Any]
"""What a shard says of itself: format, contract, first, conditions."""


@dataclass(frozen=True)
class Kind:
    """What lies in the shards of a folder, and how it is made."""

    files: str
    """How their names begin."""
    what: str
    """What the things are called in messages, several of them."""
    metadata: str
    """The key under which a file says what it is."""
    format: int
    """The newest that is read, and what is written."""
    command: str
    arguments: str
    """Of the command, {} for the folder."""
    whole: Callable[[Any, Header], bool]
    """(open file, header) -> does it have the tensors of its kind, a row for each condition?"""

    def file(self, first: int) -> str:
        """The name of the shard whose first thing is number `first`."""
        return f"{self.files}-{first:09d}.safetensors"

    def how(self, folder: Path) -> str:
        """The command that fills a folder."""
        return f"{self.command} {self.arguments.format(folder)}"

    def check_format(self, path: Path, version: int) -> None:
        """Raise UserError if a newer dmd2 wrote this."""
        if version > self.format:
            told = f"{self.what} of format {version}, newer than this dmd2 reads"
            raise UserError(f"{path}: {told}; pip install -U dmd2cli")


@dataclass(frozen=True)
class Shard:
    """A file with the things first ... first + n - 1, as a manifest lists it. size: of the file, in bytes."""

    first: int
    n: int
    size: int
    sha256: str

    @property
    def stop(self) -> int:
        """The number after that of its last thing."""
        return self.first + self.n


def read_manifest(folder: Path, kind: Kind) -> dict[str, Any]:
    """The manifest of a folder, its shards as Shard. UserError if there is none, it is cut, or of a newer dmd2."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of {kind.what}; make it with {kind.how(folder)}")
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder}: holds no {kind.what} (no {MANIFEST}); make some with {kind.how(folder)}")
    found = parse_manifest(folder, kind)
    if found is None:
        raise UserError(f"{folder / MANIFEST}: cut short or changed; run {kind.command} again to write it anew")
    return found


def parse_manifest(folder: Path, kind: Kind) -> dict[str, Any] | None:
    """The manifest, or None if it is not there or damaged. UserError if it is of a newer dmd2."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        kind.check_format(folder / MANIFEST, found["format"])
        shards = [Shard(**shard) for shard in found["shards"]]
        return {**found, "contract": dict(found["contract"]), "n": int(found["n"]), "shards": shards}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_header(path: Path, kind: Kind) -> dict[str, Any] | None:
    """What a shard says of itself. None if it is damaged or something else.

    Raises UserError if a newer dmd2 made it.
    """
    try:
        with safe_open(path, "pt") as file:
            found = json.loads((file.metadata() or {})[kind.metadata])
            kind.check_format(path, found["format"])
            whole = kind.whole(file, found)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
    return found if whole and kind.file(found["first"]) == path.name else None


class Sharded:
    """The things in a finished folder, counted from 0.

    Raises UserError if it is not there, not finished or damaged.
    """

    def __init__(self, path: str, kind: Kind) -> None:
        self.folder, self.kind = Path(path).expanduser(), kind
        manifest = read_manifest(self.folder, kind)
        self.contract: Mapping[str, Any] = manifest["contract"]
        self.shards: list[Shard] = [shard for shard in manifest["shards"] if self._there(shard)]
        self._stops = list(accumulate(shard.n for shard in self.shards))
        if len(self) < manifest["n"]:
            there = f"{len(self)} of {manifest['n']} {kind.what} are there"
            raise UserError(f"{path}: {there}; run {kind.command} again to finish")
        self._open = lru_cache(OPEN)(self._opened)

    def __len__(self) -> int:
        return self._stops[-1] if self._stops else 0

    def find(self, i: int) -> tuple[Any, int, Raw]:
        """(tensors of its shard, mapped; its row in them; its condition) of thing i."""
        shard = bisect_right(self._stops, i)
        row = i - self._stops[shard] + self.shards[shard].n
        file, conditions = self._open(shard)
        return file, row, conditions[row]

    def _there(self, shard: Shard) -> bool:
        path = self.folder / self.kind.file(shard.first)
        return path.is_file() and path.stat().st_size == shard.size

    def _opened(self, shard: int) -> tuple[Any, list[Raw]]:
        """The tensors of a shard, mapped, and its conditions."""
        path = self.folder / self.kind.file(self.shards[shard].first)
        header = read_header(path, self.kind)
        if header is None:
            raise UserError(f"{path}: damaged; run {self.kind.command} again to make it anew")
        return safe_open(path, "pt"), header["conditions"]
