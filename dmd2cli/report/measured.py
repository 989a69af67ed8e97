"""The numbers of `dmd2 eval`, each with its protocol, as rows of a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmd2cli.errors import UserError

CASES = ("nfe", "guidance", "n", "seed", "seeds")
"""How it was measured, beside the protocol."""


@dataclass(frozen=True)
class Row:
    """A metric of a subject."""

    subject: str
    metric: str
    value: str
    teacher: str
    real: str
    diversity: str
    how: str
    protocol: int
    """Its number in Measured.protocols, from 1."""
    source: str


@dataclass
class Measured:
    """All rows. Rows of one metric can be compared where their protocol has the same number."""

    rows: list[Row] = field(default_factory=list)
    protocols: list[str] = field(default_factory=list)
    """As JSON."""
    problems: list[str] = field(default_factory=list)
    """Files that were found and cannot be read."""
    files: set[Path] = field(default_factory=set)
    """That were added: each counts once."""

    def add(self, path: Path) -> None:
        """The results in a file. Raises UserError if it holds none."""
        if path.resolve() not in self.files:
            self.rows += [self.row(result, path.name) for result in results(path)]
            self.files.add(path.resolve())

    def find(self, folder: Path) -> None:
        """Those in the eval*.json of a run folder."""
        for path in sorted(folder.glob("eval*.json")):
            try:
                self.add(path)
            except UserError as err:
                self.problems.append(str(err))

    def row(self, result: Mapping[str, Any], source: str) -> Row:
        """One result."""
        beside, spread = mapping(result.get("baselines")), mapping(result.get("diversity"))
        how = ", ".join(f"{key} {result[key]}" for key in CASES if result.get(key) is not None)
        values = valued(result), valued(mapping(beside.get("teacher"))), valued(mapping(beside.get("real")))
        protocol = json.dumps(mapping(result.get("protocol")), indent=1, sort_keys=True, ensure_ascii=False)
        if protocol not in self.protocols:
            self.protocols.append(protocol)
        named, place = (str(result.get("subject", "")), str(result["metric"])), self.protocols.index(protocol) + 1
        return Row(*named, *values, number(spread.get("ratio")), how, place, source)


def results(path: Path) -> list[dict[str, Any]]:
    """What `dmd2 eval --json` wrote. Raises UserError for anything else."""
    advice = "name a file that dmd2 eval --json FILE wrote"
    try:
        found = json.loads(path.read_bytes())
    except OSError as err:
        raise UserError(f"{path}: cannot be read ({err.strerror}); {advice}") from err
    except (ValueError, RecursionError) as err:
        raise UserError(f"{path}: not JSON; {advice}") from err
    rows: Sequence[Any] = found if isinstance(found, list) else [found]
    if not rows or not all(isinstance(row, dict) and "metric" in row and "value" in row for row in rows):
        raise UserError(f"{path}: no results of dmd2 eval; {advice}")
    return list(rows)


def mapping(value: Any) -> Mapping[str, Any]:
    """A mapping, {} for anything else."""
    return value if isinstance(value, Mapping) else {}


def valued(found: Mapping[str, Any]) -> str:
    """The value of a result, with its interval if it is a mean over seeds."""
    spread = mapping(found.get("spread"))
    interval = f" ({number(spread['low'])} to {number(spread['high'])})" if {"low", "high"} <= spread.keys() else ""
    return number(found.get("value")) + interval


def number(value: Any) -> str:
    """A number as a person reads it, a dash for what is none."""
    return f"{value:.4g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else "–"
