"""The data set of noise-image pairs that `dmd2 pairs` made, for the regression term ([DMD] Eq. 9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmd2cli import registry
from dmd2cli.data.pair_files import PAIRS, difference, sampler_facts, teacher_facts
from dmd2cli.data.shard_files import Sharded
from dmd2cli.errors import UserError
from dmd2cli.protocols import Example, Teacher


class Pairs:
    """Pair i of a folder: unit noise, the teacher's x in model units, and the condition.

    path: a folder of `dmd2 pairs`. count: the first so many of its pairs; null = all.
    Raises UserError if the folder is not there, not finished or damaged, or holds fewer than count.
    """

    def __init__(self, path: str, count: int | None = None) -> None:
        self.stored = Sharded(path, PAIRS)
        self.folder, self.contract, there = self.stored.folder, self.stored.contract, len(self.stored)
        if count is not None and not 1 <= count <= there:
            raise UserError(f"{path}: count: {there} pairs are there, got {count}; take fewer, or make more (-n)")
        self.count = count or there

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < self.count:
            raise IndexError(f"pair {i} of {self.count}")
        file, row, condition = self.stored.find(i)
        return Example(file.get_slice("x")[row], condition, file.get_slice("noise")[row])

    @property
    def guidance(self) -> float:
        """The scale they were made at."""
        return float(self.contract["guidance"])

    def check(self, teacher: Teacher, sampler: Mapping[str, Any], guidance: float | None) -> None:
        """Raise UserError unless these are pairs of this teacher, sampler ({"use": name, **options}) and guidance.

        guidance: None = any.
        """
        options = dict(sampler)
        name = options.pop("use")
        facts = sampler_facts(name, registry.load("samplers", name)(**options))
        scale = self.guidance if guidance is None else float(guidance)
        asked = {**teacher_facts(teacher), "sampler": facts, "guidance": scale}
        found = difference({key: self.contract[key] for key in asked}, asked)
        if found is None:
            return
        key, old, new = found[0], str(found[1]), str(found[2])
        anew = "or make pairs for this recipe with dmd2 pairs RECIPE -o DIR -n N"
        if key.partition(".")[0] in ("sampler", "guidance"):
            raise UserError(f"{self.folder}: pairs made with {key} {old}, and here it is {new}; set it back, {anew}")
        whose = f"another teacher ({self.contract['teacher']['use']})"
        raise UserError(f"{self.folder}: pairs of {whose}: {key} {old:.12}, here {new:.12}; use that one, {anew}")
