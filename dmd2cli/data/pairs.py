"""The data set of noise-image pairs that `dmd2 pairs` made, for the regression term ([DMD] Eq. 9)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from safetensors import safe_open

from dmd2cli import registry
from dmd2cli.data.pair_files import Shard, difference, read_header, read_manifest, sampler_facts, teacher_facts
from dmd2cli.errors import UserError
from dmd2cli.protocols import Example, Raw, Teacher

OPEN = 64
"""Shards that are kept open; they are mapped, not read."""


class Pairs:
    """Pair i of a folder: unit noise, the teacher's x in model units, and the condition.

    path: a folder of `dmd2 pairs`. count: the first so many of its pairs; null = all.
    Raises UserError if the folder is not there, not finished or damaged, or holds fewer than count.
    """

    def __init__(self, path: str, count: int | None = None) -> None:
        self.folder = Path(path)
        manifest = read_manifest(self.folder)
        self.contract: Mapping[str, Any] = manifest["contract"]
        self.shards: list[Shard] = [shard for shard in manifest["shards"] if self._there(shard)]
        self.stops = list(accumulate(shard.n for shard in self.shards))
        there = self.stops[-1] if self.stops else 0
        if there < manifest["n"]:
            wanted = manifest["n"]
            raise UserError(f"{path}: {there} of {wanted} pairs are there; run dmd2 pairs again to finish")
        if count is not None and not 1 <= count <= there:
            raise UserError(f"{path}: count: {there} pairs are there, got {count}; take fewer, or make more (-n)")
        self.count = count or there
        self._open = lru_cache(OPEN)(self._opened)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < self.count:
            raise IndexError(f"pair {i} of {self.count}")
        shard = bisect_right(self.stops, i)
        row = i - self.stops[shard] + self.shards[shard].n
        file, conditions = self._open(shard)
        return Example(file.get_slice("x")[row], conditions[row], file.get_slice("noise")[row])

    def check(self, teacher: Teacher, sampler: Mapping[str, Any], guidance: float) -> None:
        """Raise UserError unless these are pairs of this teacher, sampler ({"use": name, **options}) and guidance."""
        options = dict(sampler)
        name = options.pop("use")
        facts = sampler_facts(name, registry.load("samplers", name)(**options))
        asked = {**teacher_facts(teacher), "sampler": facts, "guidance": float(guidance)}
        found = difference({key: self.contract[key] for key in asked}, asked)
        if found is None:
            return
        key, old, new = found[0], str(found[1]), str(found[2])
        anew = "or make pairs for this recipe with dmd2 pairs RECIPE -o DIR -n N"
        if key.partition(".")[0] in ("sampler", "guidance"):
            raise UserError(f"{self.folder}: pairs made with {key} {old}, and here it is {new}; set it back, {anew}")
        whose = f"another teacher ({self.contract['teacher']['use']})"
        raise UserError(f"{self.folder}: pairs of {whose}: {key} {old:.12}, here {new:.12}; use that one, {anew}")

    def _there(self, shard: Shard) -> bool:
        path = self.folder / shard.name
        return path.is_file() and path.stat().st_size == shard.size

    def _opened(self, shard: int) -> tuple[Any, list[Raw]]:
        """The tensors of a shard, mapped, and its conditions."""
        path = self.folder / self.shards[shard].name
        header = read_header(path)
        if header is None:
            raise UserError(f"{path}: damaged; run dmd2 pairs again to make it anew")
        return safe_open(path, "pt"), header["conditions"]
