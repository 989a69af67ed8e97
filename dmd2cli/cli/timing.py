"""What `eval speed` does: each subject at each batch size, and how much faster it is than the first of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from dmd2cli.cli.candidates import Candidate, candidates
from dmd2cli.cli.default_subject import default
from dmd2cli.cli.table import table
from dmd2cli.draws import Draws
from dmd2cli.engine import runtime
from dmd2cli.engine.oom import is_oom
from dmd2cli.engine.speed import PERCENTILES, WARM, hardware, timed
from dmd2cli.errors import UserError


def timings(
    subjects: Sequence[str], batches: Sequence[int], repeats: int, baselines: bool, device: str, download: bool
) -> dict[str, Any]:
    """{"hardware", "torch", "repeats", "warm_up", "rows"}; teachers come first, each once.

    Raises UserError, before anything is timed, for what cannot be.
    """
    if repeats < 1:
        raise UserError(f"--repeats {repeats}: at least 1 is needed")
    found, on = candidates(subjects or [default((), None)]), runtime.device(device)
    for one in found:
        if one.kind in ("images", "results"):
            raise UserError(f"{one.name}: draws nothing, so there is nothing to time; leave it out")
        one.check()
    rows, done = list[dict[str, Any]](), set[str]()
    for one in found:
        for name, make in drawing(one, baselines, device, download, done):
            rows += timed_in(name, make(), batches, repeats)
    facts = {"hardware": hardware(on), "torch": torch.__version__, "repeats": repeats, "warm_up": WARM}
    return {**facts, "rows": compared(rows)}


def drawing(
    one: Candidate, baselines: bool, device: str, download: bool, done: set[str]
) -> Iterator[tuple[str, Callable[[], Draws]]]:
    """(name, what draws) of the teacher behind a subject, unless that is done, and of the subject."""
    opened = one.open(device, download)
    if baselines and opened.teacher is not None and opened.behind not in done:
        done.add(opened.behind)
        yield f"teacher of {one.name}", opened.teacher
    yield one.name, lambda: opened.source


def timed_in(name: str, source: Draws, batches: Sequence[int], repeats: int) -> Iterator[dict[str, Any]]:
    """A row for each batch size, until one does not fit into the memory."""
    for batch in batches:
        try:
            yield {"subject": name, **timed(source, batch, repeats)}
        except Exception as err:
            if not is_oom(err):
                raise
            print(f"warning: {name}: no memory for {batch} images at once; larger batches are left out",
                  file=sys.stderr)                                                                  # fmt: skip
            return


def compared(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each row with "times_faster": images a second over those of the first subject at the same batch size."""
    first = {row["batch"]: row["images_per_s"] for row in rows if row["subject"] == rows[0]["subject"]}
    ratios = [row["images_per_s"] / first[row["batch"]] if row["batch"] in first else None for row in rows]
    return [{**row, "times_faster": ratio} for row, ratio in zip(rows, ratios, strict=True)]


def table_of(found: Mapping[str, Any]) -> str:
    """The result for people."""
    rows = found["rows"]
    against = f"x {rows[0]['subject']}" if rows else "x"
    heads = ["", "NFE", "batch", "images/s", *(f"p{p} ms" for p in PERCENTILES), "peak GiB", against]
    return f"{found['hardware']}, torch {found['torch']}\n{table(heads, [line(row) for row in rows])}"


def line(row: Mapping[str, Any]) -> list[str]:
    """One row of cells."""
    times = [f"{1000 * row[f'p{p}_s']:.2f}" for p in PERCENTILES]
    peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.2f}"
    faster = "" if row["times_faster"] is None else f"{row['times_faster']:.2f}"
    return [row["subject"], str(row["nfe"]), str(row["batch"]), f"{row['images_per_s']:.2f}", *times, peak, faster]


def sizes(text: str) -> list[int]:
    """The batch sizes of "1,4,16". Raises UserError for other text, or less than 1."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1 or len(set(found)) < len(found):
        raise UserError(f"--batches {text}: expected whole numbers from 1 on, each once, such as 1,4,16")
    return found
