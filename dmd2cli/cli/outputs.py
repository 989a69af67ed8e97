"""Where `eval compare` puts its table and its figure."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path

from dmd2cli.cli.figure import Figure
from dmd2cli.cli.subject import writable
from dmd2cli.comparison import Comparison
from dmd2cli.comparison_text import markdown, table_csv, text_json
from dmd2cli.errors import UserError
from dmd2cli.images import save_png


@dataclass(frozen=True)
class Outputs:
    """Files, None for those that are not asked for. Raises UserError where one cannot be written."""

    markdown: Path | None
    csv: Path | None
    json: Path | None
    grid: Path | None

    def __post_init__(self) -> None:
        paths = [path for f in fields(self) if (path := getattr(self, f.name)) is not None]
        for i, path in enumerate(paths):
            if path.resolve() in [other.resolve() for other in paths[:i]]:
                raise UserError(f"{path}: is named for two outputs; name two files")
            writable(path)
        if self.grid is not None and self.grid.suffix.lower() != ".png":
            raise UserError(f"--grid {self.grid}: is a PNG; name a .png file")

    def write(self, table: Comparison | None, figure: Figure | None, across: bool) -> None:
        """What is there into its files; the table to stdout if no file of it is asked for."""
        if figure is not None and self.grid is not None:
            save_png(figure.sheet(across), self.grid)
            print(f"{self.grid}: {len(figure.columns)} subjects x {figure.rows}", file=sys.stderr)
        if table is None:
            return
        texts = ((self.markdown, markdown), (self.csv, table_csv), (self.json, text_json))
        for path, text in texts:
            if path is not None:
                whole(path, text(table))
        if self.markdown is None:
            print(markdown(table), end="")


def whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
