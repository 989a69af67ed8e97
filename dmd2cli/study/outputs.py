"""Files that results become: every vote as CSV, the preference rates as a picture."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dmd2cli.errors import UserError
from dmd2cli.study.counted import Counted
from dmd2cli.study.names import cell, short

COLUMNS = ("question", "item", "text", "seed", "left", "right", "answer", "preferred", "rater", "time")


def write_csv(found: Counted, path: Path) -> None:
    """A row for each vote in the order they came, in UTF-8; an apostrophe before what a spreadsheet would compute."""
    study = found.study
    with replacing(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for one in found.outcomes:
            item, vote = study.items[one.item], one.vote
            preferred = "" if one.winner is None else study.name(one.winner)
            texts = [cell(text) for text in (study.name(one.left), study.name(one.right), vote.side, preferred)]
            when = datetime.fromtimestamp(vote.at, timezone.utc).isoformat(timespec="seconds")
            seed = "" if item.seed is None else item.seed
            shown = [vote.question, one.item, cell(item.text or ""), seed, *texts, cell(found.names[vote.rater]), when]
            table.writerow(shown)


def check_plot(path: Path | None) -> None:
    """Raise UserError for a picture that is no PNG."""
    if path is not None and path.suffix.lower() != ".png":
        raise UserError(f"--plot {path}: name a .png file")


def write_plot(results: Mapping[str, Any], path: Path) -> None:
    """A bar for every two arms and question: how often the first is preferred, with its interval."""
    from matplotlib.figure import Figure

    rows = [(q, row) for q, found in results["questions"].items() for row in found["preferences"]]
    figure = Figure(figsize=(8, 1.2 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, (_, row) in enumerate(reversed(rows)):
        percent, (low, high) = 100 * row["rate"], (100 * end for end in row["interval"])
        axes.barh(y, percent, color="#0f766e", height=0.6)
        axes.barh(y, 100 - percent, left=percent, color="#cfcfcf", height=0.6)
        axes.plot([low, high], [y, y], color="black", linewidth=1.5, marker="|")
        axes.text(101, y, f"{percent:.0f} %  n = {row['votes']}", va="center", fontsize=9)
    names = [f"{q}: {plain(row['arm'])} over {plain(row['against'])}" for q, row in reversed(rows)]
    axes.set_yticks(range(len(rows)), names, fontsize=9)
    axes.axvline(50, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, 100), xlabel="preferred, %; no difference counts half; line: Wilson's 95 % interval")
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=150)


def plain(name: str) -> str:
    """A name in a picture, its dollar signs no formula."""
    return short(name, 30).replace("$", r"\$")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The neighbour that a file is written to first. Raises UserError if the path is a folder."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
