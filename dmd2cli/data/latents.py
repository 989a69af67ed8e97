"""The data set of what was encoded beforehand, so that training loads neither VAE nor text encoders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor

from dmd2cli.data.cache_files import CACHE, COND, NULL, identity
from dmd2cli.data.pair_files import difference
from dmd2cli.data.shard_files import Sharded, parse_manifest
from dmd2cli.data.sources.lmdb_latents import LmdbLatents
from dmd2cli.errors import UserError
from dmd2cli.protocols import Example, Raw, Teacher


class Store(Protocol):
    """Encoded items by position."""

    null: Mapping[str, Tensor]
    """The null condition, one row; {} where conditions are not encoded."""

    def __len__(self) -> int: ...

    def example(self, i: int) -> Example:
        """Item i."""

    def condition(self, i: int) -> Raw:
        """Of item i, without the rest."""

    def name(self, i: int) -> str:
        """Item i as a person looks for it."""

    def fingerprint(self) -> str:
        """SHA-256 that tells these data from others."""

    def check(self, teacher: Teacher) -> None:
        """Raise UserError unless a teacher can use these."""


class Latents:
    """Latents in model units and conditions: a folder of `dmd2 data cache`, or an LMDB of the official DMD2 layout.

    A cache of prompts alone serves as data.prompts. array, prompt_array: what an LMDB's arrays are called. limit: only
    so many, evenly spaced. max_corrupt: items of an LMDB that cannot be read before a run stops.
    Raises UserError for data that are missing, unfinished or damaged.
    """

    reads_files: ClassVar[bool] = True

    def __init__(
        self,
        path: str,
        array: str = "latents",
        prompt_array: str = "prompts",
        limit: int | None = None,
        max_corrupt: int = 10,
    ) -> None:
        if limit is not None and limit < 1:
            raise UserError(f"limit must be at least 1, got {limit}")
        path = os.path.expanduser(path)
        self.store: Store = Rows(LmdbLatents(path, array, prompt_array)) if is_lmdb(path) else Cached(path)
        self.null, self.max_corrupt = self.store.null, max_corrupt
        self.count = min(limit or len(self.store), len(self.store))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < self.count:
            raise IndexError(f"item {i} of {self.count}")
        return self.store.example(self._place(i))

    @staticmethod
    def encoded(path: str, **options: Any) -> bool:
        """Whether conditions come encoded, for plans: no data are opened. What is not there yet counts as a cache."""
        found = parse_manifest(Path(path).expanduser(), CACHE)
        return not is_lmdb(path) and (found is None or bool(found["contract"]["text"]))

    def condition(self, i: int) -> Raw:
        """Of item i, without reading its tensors."""
        return self.store.condition(self._place(i))

    def name(self, i: int) -> str:
        """Item i as a person looks for it."""
        return self.store.name(self._place(i))

    def fingerprint(self) -> str:
        """SHA-256 that tells these data from others."""
        return self.store.fingerprint()

    def check_teacher(self, teacher: Teacher) -> None:
        """Raise UserError unless the latents are of this teacher's shape, and encoded by its VAE and text encoders."""
        self.store.check(teacher)

    def _place(self, i: int) -> int:
        return i * len(self.store) // self.count


class Cached:
    """A folder of `dmd2 data cache`."""

    def __init__(self, path: str) -> None:
        self.path, self.stored = path, Sharded(path, CACHE)
        self.contract = self.stored.contract
        self.null: Mapping[str, Tensor] = self._rows(*self.stored.find(0)[:2], NULL)

    def __len__(self) -> int:
        return len(self.stored)

    def example(self, i: int) -> Example:
        file, row, condition = self.stored.find(i)
        x = file.get_slice("x")[row].float() if self.contract["latents"] else None
        return Example(x, condition, encoded=self._rows(file, row, COND) if self.contract["text"] else None)

    def condition(self, i: int) -> Raw:
        return self.stored.find(i)[2]

    def name(self, i: int) -> str:
        return f"{self.path}: item {i}"

    def fingerprint(self) -> str:
        return str(self.contract["data"]["fingerprint"])

    def check(self, teacher: Teacher) -> None:
        check_shape(self.path, self.contract["shape"], teacher)
        asked = identity(teacher)
        if found := difference({key: self.contract[key] for key in asked}, asked):
            key, old, new = (str(part) for part in found)
            whose = f"encoded by another teacher ({self.contract['teacher']['use']}): {key} {old:.12}, here {new:.12}"
            raise UserError(f"{self.path}: {whose}; use that one, or make it anew with {CACHE.command} -o DIR")

    def _rows(self, file: Any, row: int, prefix: str) -> dict[str, Tensor]:
        """Conditions in a shard, one row of each; the null condition has one row alone."""
        at = 0 if prefix == NULL else row
        names: list[str] = file.keys()
        return {name.removeprefix(prefix): file.get_slice(name)[at] for name in names if name.startswith(prefix)}


class Rows:
    """An LMDB of latents; conditions are prompts, which the teacher encodes as they come."""

    def __init__(self, rows: LmdbLatents) -> None:
        self.rows, self.null = rows, cast(Mapping[str, Tensor], {})

    def __len__(self) -> int:
        return len(self.rows)

    def example(self, i: int) -> Example:
        return Example(torch.from_numpy(self.rows.x(i)), self.rows.prompt(i))

    def condition(self, i: int) -> Raw:
        return self.rows.prompt(i)

    def name(self, i: int) -> str:
        return self.rows.name(i)

    def fingerprint(self) -> str:
        return self.rows.fingerprint()

    def check(self, teacher: Teacher) -> None:
        check_shape(self.rows.where, self.rows.item, teacher)


def is_lmdb(path: str) -> bool:
    """Is a path an LMDB, by its names?"""
    return path.endswith((".mdb", ".lmdb")) or os.path.isfile(os.path.join(path, "data.mdb"))


def check_shape(path: str, held: list[int], teacher: Teacher) -> None:
    """Raise UserError if latents are of another resolution than the teacher's."""
    if list(held) != list(teacher.shape):
        ours, theirs = (" x ".join(map(str, shape)) for shape in (held, teacher.shape))
        raise UserError(f"{path}: latents are {ours}, and the teacher's are {theirs}; encode images of its size")
