"""Items that cannot be read: said by name, and stood in for by the next good one, up to a limit."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dmd2cli.errors import UserError

if TYPE_CHECKING:
    from dmd2cli.protocols import Dataset, Example


class Corrupt(UserError):
    """One item of a data set cannot be read. name: its file; reason: what is wrong with it."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, " ".join(reason.split()) or "cannot be decoded"

    def __str__(self) -> str:
        return f"{self.name}: not a whole image ({self.reason}); replace it or take it out"


@dataclass(frozen=True)
class Fetched:
    """What was found at a place of a data set: the example, if any, and the corrupt items before it."""

    example: Example | None
    corrupt: tuple[Corrupt, ...] = ()


def fetch(dataset: Dataset, i: int) -> Fetched:
    """Item i, or the first good one after it: a function of i, so that a run that continues finds the same.

    A data set may say `max_corrupt`; after one more corrupt item than that in a row there is no example.
    """
    bad = list[Corrupt]()
    for _ in range(limit(dataset) + 1):
        try:
            return Fetched(dataset[i], tuple(bad))
        except Corrupt as err:
            bad.append(err)
            i = (i + 1) % len(dataset)
    return Fetched(None, tuple(bad))


def limit(dataset: Dataset) -> int:
    """How many corrupt items a data set bears."""
    found: Any = getattr(dataset, "max_corrupt", 0)
    return int(found)


@dataclass
class Register:
    """The corrupt items that one process has met, each told of once on stderr."""

    names: set[str] = field(default_factory=set)

    def examples(self, dataset: Dataset, found: Iterable[Fetched]) -> list[Example]:
        """The examples; raises UserError once more corrupt items were met than the data set bears."""
        return [self._example(dataset, one) for one in found]

    def _example(self, dataset: Dataset, found: Fetched) -> Example:
        for err in found.corrupt:
            self._note(err, limit(dataset))
        if found.example is None:
            raise found.corrupt[0]
        return found.example

    def _note(self, err: Corrupt, most: int) -> None:
        if err.name in self.names:
            return
        self.names.add(err.name)
        if len(self.names) > most:
            met = f"{err.name}: the {ordinal(len(self.names))} corrupt image ({err.reason}), max_corrupt is {most}"
            raise UserError(f"{met}; dmd2 data check names them all")
        print(f"{err.name}: corrupt ({err.reason}); another image stands in for it", file=sys.stderr, flush=True)


def ordinal(n: int) -> str:
    """1st, 2nd, 3rd, 4th, ... 11th."""
    ending = "th" if 10 < n % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"
