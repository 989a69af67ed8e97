"""Lists of prompts in files: text, JSON lines, a column of a table. Importing this imports no torch."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dmd2cli.data.sources.captions import as_row, as_text, column, value
from dmd2cli.data.sources.coco import read_coco
from dmd2cli.data.sources.source import extra
from dmd2cli.errors import UserError

WHAT = "prompts"
COCO = ".json"


def read_prompts(path: str, name: str | None = None) -> list[str]:
    """The prompts of a file in its order, without empty ones. name: their key or column, None = one of the usual names.

    A .json is COCO's captions: one of each image, as read_coco() chooses them.
    Raises UserError for a file that is missing or of an unknown kind, for a column that is not there, and if no
    prompt is left.
    """
    file = Path(path).expanduser()
    kind = file.suffix.lower()
    if kind not in KINDS and kind != COCO:
        raise UserError(f"{path}: a format that is not known; expected {', '.join(KINDS)}, or COCO's .json")
    if name is not None and kind in (".txt", COCO):
        what = "a text file has" if kind == ".txt" else "COCO's captions have"
        raise UserError(f"{path}: {what} no column {name}; leave it out")
    if not file.is_file():
        raise UserError(f"{path}: no such file; expected a list of prompts: {', '.join(KINDS)}")
    found = [text for _, text in read_coco(file)] if kind == COCO else KINDS[kind](file, name)
    return not_empty(found, path)


def not_empty(found: Sequence[str | None], where: str) -> list[str]:
    """The texts that say something. Raises UserError if none does."""
    kept = [text.strip() for text in found if text and text.strip()]
    if not kept:
        raise UserError(f"{where}: no prompts in it; write one on each line, or name another file")
    return kept


def lines(path: Path, name: str | None) -> list[str]:
    """One prompt on each line."""
    return as_text(path.read_bytes(), str(path)).split("\n")


def json_lines(path: Path, name: str | None) -> list[str]:
    """One JSON object on each line."""
    wanted, rows = True if name is None else name, enumerate(lines(path, None), 1)
    return [value(as_row(row, f"{path}:{n}"), wanted, f"{path}:{n}", WHAT) for n, row in rows if row.strip()]


def separated(path: Path, name: str | None) -> list[str]:
    """A column of a table of values with commas or tabs between; its first line names the columns."""
    text = as_text(path.read_bytes(), str(path))
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ",")
    try:
        chosen = column(rows.fieldnames or [], True if name is None else name, str(path), WHAT)
        return [row[chosen] for row in rows]
    except csv.Error as err:
        raise UserError(f"{path}: not a table of values with commas between ({err}); save it as JSON lines") from None


def parquet(path: Path, name: str | None) -> list[str]:
    """A column of a Parquet file."""
    extra("pyarrow", WHAT)
    tables: Any = extra("pyarrow.parquet", WHAT)
    try:
        file = tables.ParquetFile(os.fspath(path))
        chosen = column(file.schema_arrow.names, True if name is None else name, str(path), WHAT)
        found = file.read(columns=[chosen]).column(chosen).to_pylist()
    except (OSError, ValueError) as err:                       # what pyarrow raises for a damaged file
        raise UserError(f"{path}: not a whole Parquet file ({' '.join(str(err).split())}); copy it again") from None
    if bad := [one for one in found if one is not None and not isinstance(one, str)]:
        raise UserError(f"{path}: {chosen} holds {bad[0]!r}, no text; name another column")
    return found


KINDS: dict[str, Callable[[Path, str | None], Sequence[str | None]]] = {
    ".txt": lines,
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".csv": separated,
    ".tsv": separated,
    ".parquet": parquet,
}
"""Suffix -> what reads such a file."""
