"""Results of several subjects in one table, one column for one protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dmd2cli.data.pair_files import difference
from dmd2cli.errors import UserError

Result = Mapping[str, Any]
"""Of one metric, as `dmd2 eval` prints it."""

PLACES = ("path", "statistics")
"""Keys of a protocol that say where something lies, not what it is."""
UNKNOWN = ("seeds", "size")
"""Fields that count only where both say them: images that are there have no seed, older results no size."""
LOWER, HIGHER = -1, 1


@dataclass(frozen=True)
class Cell:
    """A value; its deviation over seeds and the interval of its mean, where there were several."""

    value: float
    std: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def half(self) -> float | None:
        """Half the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass
class Column:
    """Values of one metric under one protocol, by the names of rows. number: of several of that metric; 0: the only."""

    metric: str
    protocol: dict[str, Any]
    number: int = 0
    cells: dict[str, Cell] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The metric, and which of several protocols."""
        return f"{self.metric} ({self.number})" if self.number else self.metric

    @property
    def direction(self) -> int:
        """Which values are better: LOWER, HIGHER, or 0 if it is not said."""
        said = str(self.protocol.get("direction", ""))
        return LOWER if said.startswith("lower") else HIGHER if said.startswith("higher") else 0


@dataclass(frozen=True)
class Row:
    """Who was measured. kind: subject, teacher (behind one) or real."""

    name: str
    kind: str = "subject"
    cost: Mapping[str, Any] = field(default_factory=dict)
    """"nfe", "passes", "guidance", "seconds", where they are known."""


@dataclass
class Comparison:
    """A table that grows by one subject at a time. separate: another protocol gets a column of its own."""

    separate: bool = False
    rows: list[Row] = field(default_factory=list)
    columns: list[Column] = field(default_factory=list)

    def add(self, name: str, results: Sequence[Result], teacher: str | None = None) -> None:
        """The results of a subject, with its baselines. teacher: what to call the one behind it, if it was measured.

        Raises UserError for a name that is there already, and for a protocol that is not its column's.
        """
        if any(row.name == name for row in self.rows):
            raise UserError(f"{name}: two subjects have this name; name one of them: {name},name=OTHER")
        for result in results:
            column, beside = self.column(name, result), result.get("baselines", {})
            for who, kind, numbers in self.lines(name, result, beside, teacher):
                if all(row.name != who for row in self.rows):
                    self.rows.append(Row(who, kind, cost(numbers)))
                column.cells.setdefault(who, cell(numbers))
        self.rows.sort(key=lambda row: ("real", "teacher", "subject").index(row.kind))

    def lines(
        self, name: str, result: Result, beside: Mapping[str, Any], teacher: str | None
    ) -> Iterator[tuple[str, str, Result]]:
        """(row's name, its kind, numbers) of a result and of its baselines."""
        if "real" in beside:
            yield "real data", "real", beside["real"]
        if teacher is not None and "teacher" in beside:
            yield teacher, "teacher", beside["teacher"]
        yield name, "subject", result

    def column(self, name: str, result: Result) -> Column:
        """The column of a result's protocol, a new one if there is none. Raises UserError for another protocol."""
        asked, metric = protocol(result), str(result["metric"])
        same = [column for column in self.columns if column.metric == metric]
        for column in same:
            if (unlike := differs(column.protocol, asked)) is None:
                column.protocol.update({key: asked[key] for key in UNKNOWN if key in asked})
                return column
            if not self.separate:
                first, (key, old, new) = next(reversed(column.cells)), unlike
                way = "measure both alike, or give each a column of its own: --separate"
                raise UserError(f"{name}: {metric}: {key} is {new!r}, and {old!r} for {first}; {way}")
        if len(same) == 1:
            same[0].number = 1
        self.columns.append(Column(metric, asked, len(same) + 1 if same else 0))
        return self.columns[-1]


def protocol(result: Result) -> dict[str, Any]:
    """All that a value is a function of besides its subject: counts, seeds, size, and the metric's own protocol."""
    seeds = result.get("seeds") or ([result["seed"]] if "seed" in result else None)
    found = {"n": result["n"], "seeds": seeds if "nfe" in result else None, "size": result.get("size")}
    return {**{key: value for key, value in found.items() if value is not None}, **pruned(result["protocol"])}


def pruned(found: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol without the places of files."""
    inner = {key: pruned(value) if isinstance(value, Mapping) else value for key, value in found.items()}
    return {key: value for key, value in inner.items() if key not in PLACES}


def differs(held: Mapping[str, Any], asked: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """(field, held value, asked value) of the first field that differs; None if it is one protocol."""
    unsaid = [key for key in UNKNOWN if key not in held or key not in asked]
    one, other = ({key: value for key, value in each.items() if key not in unsaid} for each in (held, asked))
    return difference(one, other)


def cell(numbers: Result) -> Cell:
    """The value of a row."""
    spread = numbers.get("spread") or {}
    return Cell(numbers["value"], spread.get("std"), spread.get("low"), spread.get("high"))


def cost(numbers: Result) -> dict[str, Any]:
    """What a row took to draw."""
    return {key: numbers[key] for key in ("nfe", "passes", "guidance", "seconds") if numbers.get(key) is not None}


def best(column: Column, rows: Sequence[Row]) -> str | None:
    """The subject whose interval is better than all others'; None if it overlaps one, or there are no intervals."""
    found = [(row.name, column.cells[row.name]) for row in rows if row.kind == "subject" and row.name in column.cells]
    if len(found) < 2 or not column.direction or any(one.half is None for _, one in found):
        return None
    (name, first), *others = sorted(found, key=lambda pair: -column.direction * pair[1].value)
    assert first.low is not None and first.high is not None
    if column.direction == LOWER:
        clear = all(first.high < other.low for _, other in others if other.low is not None)
    else:
        clear = all(first.low > other.high for _, other in others if other.high is not None)
    return name if clear else None
