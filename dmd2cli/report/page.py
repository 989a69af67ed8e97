"""A report as one HTML file: nothing in it asks the network for anything, and its policy forbids that it could."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dmd2cli import __version__
from dmd2cli.report.chart import Chart, Drawn, chart
from dmd2cli.report.curve import Curve, curve
from dmd2cli.report.measured import Measured
from dmd2cli.report.reference import Reference
from dmd2cli.report.signals import Group, grouped, limits, title, words
from dmd2cli.report.subject import Subject, compared

POINTS = 60_000
"""Buckets of all lines together: they are most of the file's size beside the pictures."""
FEWEST, MOST = 30, 320
"""Buckets of a line; more than MOST would not be seen."""


@dataclass(frozen=True)
class Contents:
    """All that a report shows."""

    subjects: Sequence[Subject]
    measured: Measured
    reference: Reference | None


def html(contents: Contents) -> bytes:
    """The file, in UTF-8."""
    folder = files("dmd2cli.report") / "page"
    style, script = ((folder / name).read_text("utf-8") for name in ("style.css", "report.js"))
    templates = Environment(
        loader=FileSystemLoader(str(folder)), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    text = templates.get_template("report.html.jinja").render(
        style=style, script=script, policy=policy(style, script), version=__version__, **context(contents)
    )
    return text.encode("utf-8", "replace")


def policy(style: str, script: str) -> str:
    """Content-Security-Policy: this style, this script, pictures from within, and nothing else."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )


def context(contents: Contents) -> dict[str, Any]:
    """What the template reads."""
    subjects = contents.subjects
    groups = charts(subjects, contents.reference)
    return {
        "subjects": subjects,
        "several": len(subjects) > 1,
        "groups": groups,
        "smoothing": any(line.smooth for _, found in groups for one in found for line in one.lines),
        "reference": contents.reference,
        "banded": any(one.band for _, found in groups for one in found),
        "measured": contents.measured,
        "validations": [row for one in subjects if (row := validation(one)) is not None],
        "differences": compared(subjects) if len(subjects) > 1 else [],
    }


def charts(subjects: Sequence[Subject], reference: Reference | None) -> list[tuple[Group, list[Chart]]]:
    """The charts of every group, over all runs: a signal that one of them lacks has a line less."""
    names = list(dict.fromkeys(name for one in subjects for name in one.run.names))
    curves = {name: [(one, curve(one.run, name)) for one in subjects if name in one.run.names] for name in names}
    lines = sum(map(len, curves.values()))
    buckets = max(FEWEST, min(MOST, POINTS // max(1, lines)))
    last = float(max(one.run.step for one in subjects))
    found = list[tuple[Group, list[Chart]]]()
    for group, members in grouped(names):
        found.append((group, [drawn(name, curves[name], reference, last, buckets) for name in members]))
    return found


def drawn(
    name: str, curves: Sequence[tuple[Subject, Curve]], reference: Reference | None, last: float, buckets: int
) -> Chart:
    """One chart. Bounds are drawn where they are the same for all runs; the band has the length of the first."""
    steps = curves[0][0].run.recipe.run.steps
    asked = {limits(name, one.verdict, one.metric) for one, _ in curves}
    bounds = asked.pop() if len(asked) == 1 else (-math.inf, math.inf)
    band = reference.bands.get(name) if reference is not None else None
    lines = [Drawn(one.letter, one.number, found) for one, found in curves]
    return chart(name, title(name), words(name), lines, bounds, band, last, steps, buckets)


def validation(subject: Subject) -> Mapping[str, str] | None:
    """A row of the table of metrics, of what the run measured itself; None if it did not."""
    asked, best = subject.run.recipe.health.validation, subject.verdict.best
    if asked is None or best is None:
        return None
    options = ", ".join(f"{key} {value}" for key, value in asked.options.items())
    every = asked.every or subject.run.recipe.run.save_every
    newest = subject.run.series(f"validation/{asked.use}") or [(0, float("nan"))]
    return {
        "run": subject.title,
        "metric": asked.use,
        "best": f"{abs(best['score']):.4g}",
        "step": f"{best['step']:,}",
        "newest": f"{newest[-1][1]:.4g}",
        "protocol": f"{asked.n} images, every {every} steps, the same noise every time{'; ' * bool(options)}{options}",
    }
