"""The figure of `eval compare --grid`: what each subject draws for the same prompts or classes, from the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image

from dmd2cli.cli.subject import Subject
from dmd2cli.comparison_grid import sheet
from dmd2cli.errors import UserError
from dmd2cli.images import to_pil
from dmd2cli.pictures import open_pictures
from dmd2cli.prompt_list import prompt_list
from dmd2cli.protocols import Raw


@dataclass
class Figure:
    """The pictures of each subject for some rows: image i of one seed in row i."""

    rows: int
    seed: int
    raw: Sequence[Raw] = ()
    """Prompts; none: the subject's own conditions in turn."""
    columns: dict[str, list[Image.Image]] = field(default_factory=dict)
    """By the names of subjects."""
    labels: list[str] = field(default_factory=list)
    """Of rows: prompts or classes."""

    def draw(self, name: str, found: Subject) -> None:
        """Add a subject's. Raises UserError for prompts that it does not read, or needs."""
        reads = found.source.reads
        if bool(self.raw) != reads.prompts:
            what = "reads prompts; name a list of them: --prompts FILE" if reads.prompts else "reads no prompts"
            raise UserError(f"--grid: {name} {what}")
        raw = list(self.raw) or found.source.conditions(self.rows)
        self.columns[name] = [to_pil(image) for image in torch.cat(list(found.source.draw(raw, self.seed)))]
        self.labels = self.labels or ["" if one is None else str(one) for one in raw]

    def sheet(self, across: bool) -> Image.Image:
        """All of them with their labels."""
        return sheet(self.columns, self.labels or [""] * self.rows, across)

    def read(self, name: str, path: str) -> None:
        """Add the first images of a path. Raises UserError if they are too few."""
        found = open_pictures(Path(path), mixed=True)
        if len(found) < self.rows:
            raise UserError(f"--grid: {path} has {len(found)} images for {self.rows} rows; draw fewer: --rows")
        self.columns[name] = [Image.fromarray(found.image(i)) for i in range(self.rows)]


def figure_of(rows: int, seed: int, prompts: str | None, column: str | None) -> Figure:
    """An empty one for the first prompts of a list, or for conditions. Raises UserError for less than one row."""
    if rows < 1:
        raise UserError(f"--rows {rows}: at least 1 is needed")
    raw = list(prompt_list(prompts, column).texts[:rows]) if prompts is not None else []
    return Figure(len(raw) or rows, seed, raw)
