"""A comparison as Markdown, as CSV, as JSON; header() and lines() are for other tables."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from dmd2cli.comparison import HIGHER, LOWER, Cell, Column, Comparison, Row, best
from dmd2cli.over_seeds import LEVEL

COST = {"nfe": "NFE", "guidance": "guidance", "seconds": "seconds"}
"""What a row took -> its heading."""
ARROWS = {LOWER: " ↓", HIGHER: " ↑", 0: ""}


def header(found: Comparison) -> list[str]:
    """Headings, each metric with an arrow to its better values."""
    return ["", *COST.values(), *(column.title + ARROWS[column.direction] for column in found.columns)]


def lines(found: Comparison, mark: str = "") -> list[list[str]]:
    """A line of cells for each row. mark: put around the best value of a column."""
    first = [best(column, found.rows) for column in found.columns]
    return [
        [row.name, *paid(row), *(shown(c.cells.get(row.name), mark * (b == row.name)) for c, b in pairs(found, first))]
        for row in found.rows
    ]


def pairs(found: Comparison, first: list[str | None]) -> Iterator[tuple[Column, str | None]]:
    """Each column with its best row."""
    return zip(found.columns, first, strict=True)


def paid(row: Row) -> list[str]:
    """NFE, doubled if each call had two rows, guidance and seconds of a row."""
    twice = f" x {row.cost['passes']:g}" if row.cost.get("passes", 1) != 1 else ""
    nfe = f"{row.cost['nfe']:g}{twice}" if "nfe" in row.cost else ""
    return [nfe, *(f"{row.cost[key]:.4g}" if key in row.cost else "" for key in ("guidance", "seconds"))]


def shown(cell: Cell | None, mark: str = "") -> str:
    """A value for people, with half its interval."""
    if cell is None:
        return ""
    return f"{mark}{cell.value:.4g}{'' if cell.half is None else f' ± {cell.half:.2g}'}{mark}"


def markdown(found: Comparison) -> str:
    """A table, the best values bold where they are clear, and a note for each column."""
    table = [header(found), ["---"] * (1 + len(COST) + len(found.columns)), *lines(found, "**")]
    rows = ("| " + " | ".join(safe(cell) for cell in line) + " |" for line in table)
    return "\n".join([*rows, "", *(f"- {safe(note)}" for note in notes(found))]) + "\n"


def safe(text: str) -> str:
    """Text that stays one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def notes(found: Comparison) -> Iterator[str]:
    """The protocol of each column in one line, and how sure the numbers are."""
    for column in found.columns:
        yield f"{column.title}: " + "; ".join(f"{key} {value}" for key, value in flat(column.protocol))
    if any(cell.half is not None for column in found.columns for cell in column.cells.values()):
        yield f"±: {LEVEL:.0%} t-interval of the mean over seeds; n images for each seed, seconds for n images"
    if any(best(column, found.rows) for column in found.columns):
        yield "bold: better than every other subject, with intervals apart"
    if any(row.cost.get("passes", 1) != 1 for row in found.rows):
        yield "NFE k x 2: each of k calls has two rows for an image, for guidance"


def flat(found: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, value) of what is said."""
    for key, value in found.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{under}{key}.")
        elif value is not None:
            yield f"{under}{key}", ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def table_csv(found: Comparison) -> str:
    """A line for each row; of each column its value, deviation and interval."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    numbers = ("value", "std", "low", "high")
    writer.writerow(["subject", "kind", *COST, *(f"{c.title} {one}" for c in found.columns for one in numbers)])
    for row in found.rows:
        cells = [column.cells.get(row.name) for column in found.columns]
        values = [getattr(cell, one, None) for cell in cells for one in numbers]
        writer.writerow([row.name, row.kind, *(row.cost.get(key) for key in COST), *values])
    return text.getvalue()


def text_json(found: Comparison) -> str:
    """The JSON of as_json()."""
    return json.dumps(as_json(found), indent=2)


def as_json(found: Comparison) -> dict[str, Any]:
    """Rows and columns; "best" is the row whose interval is better than all others'."""
    columns = [
        {"title": c.title, "metric": c.metric, "protocol": dict(c.protocol), "best": best(c, found.rows)}
        | {"cells": {name: vars(one) for name, one in c.cells.items()}}
        for c in found.columns
    ]
    return {"rows": [{"name": row.name, "kind": row.kind, **row.cost} for row in found.rows], "columns": columns}
