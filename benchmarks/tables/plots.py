"""A table as a picture: dots, curves, frontier or scatter. Legends stand outside of the axes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from tables.report import Results
from tables.table import Cell, Table

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

LABELS = {
    "generator_updates": "generator updates",
    "critic_updates": "critic updates",
    "cpu_seconds": "training, CPU seconds",
    "brightness": "brightness, student minus data\n(0 to 255)",
}
"""Of what is measured during training, but for the metric's own number."""


def draw(table: Table, cells: Sequence[Cell], found: Results, path: Path) -> None:
    """Write the table's picture as PNG, whole or not at all; nothing if no cell is finished."""
    if not any("result" in held for held in found.values()):
        return
    fig = PICTURES[table.picture](table, cells, found)
    fig.suptitle(f"{table.title}\n({table.source})", fontsize=10)
    if fig.legends:
        fig.legends[0].set_frame_on(False)
    draft = path.with_name(f".{path.name}.tmp")
    fig.savefig(draft, format="png", dpi=150, facecolor="white")
    plt.close(fig)
    os.replace(draft, path)


def drawn(table: Table) -> tuple[str, str]:
    """Key and heading of the number that is drawn."""
    return next(iter(table.columns.items()))


def label(table: Table, cell: Cell) -> str:
    """Row and variant; the row alone where it has one variant."""
    row = table.rows[cell.row]
    return row.title if len(row.variants) == 1 else f"{row.title}, {cell.variant}"


def logarithmic(ax: Axes, axis: str) -> None:
    """A logarithmic axis with plain numbers, if what is drawn spans a factor of 3."""
    low, high = getattr(ax.dataLim, f"interval{axis}")
    if low <= 0 or high < 3 * low:
        return
    getattr(ax, f"set_{axis}scale")("log")
    ticks = getattr(ax, f"{axis}axis")
    ticks.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ticks.set_minor_formatter(NullFormatter())


def dots(table: Table, cells: Sequence[Cell], found: Results) -> Figure:
    """Rows from top to bottom; a dot for every seed, a colour for every variant."""
    rows, variants = list(table.rows), list(dict.fromkeys(cell.variant for cell in cells))
    key, heading = drawn(table)
    fig, ax = plt.subplots(figsize=(7.5, 1.8 + 0.45 * len(rows)), layout="constrained")
    for v, variant in enumerate(variants):
        good = [c for c in found if c.variant == variant and "result" in found[c]]
        y = [rows.index(c.row) + 0.25 * (v - (len(variants) - 1) / 2) for c in good]
        ax.plot([found[c]["result"][key] for c in good], y, "o", color=f"C{v}", alpha=0.7, label=variant)
    if heading.startswith("FD"):
        logarithmic(ax, "x")
    for cell, held in found.items():
        if "diverged" in held:
            ax.text(0.99, rows.index(cell.row), "diverged", transform=ax.get_yaxis_transform(), ha="right", fontsize=8)
    papers = [", ".join(f"{value:g}" for value in row.paper.values()) for row in table.rows.values()]
    titles = [row.title + (f"\npaper: {p}" if p else "") for row, p in zip(table.rows.values(), papers, strict=True)]
    ax.set_yticks(range(len(rows)), titles, fontsize=8)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel(f"{heading}, one dot per training seed")
    ax.grid(alpha=0.3)
    if len(variants) > 1:
        fig.legend(loc="outside lower center", ncols=len(variants), fontsize=8)
    return fig


def curves(table: Table, cells: Sequence[Cell], found: Results) -> Figure:
    """What was measured during training: a line for every row and variant, the band from the least to the most."""
    good = [cell for cell in cells if found.get(cell, {}).get("series")]
    columns = len(table.panels)
    fig, axes = plt.subplots(1, columns, figsize=(4.2 * columns, 4.4), layout="constrained", squeeze=False)
    kinds = list(dict.fromkeys((cell.row, cell.variant) for cell in good))
    for ax, (x, y) in zip(axes[0], table.panels, strict=True):
        for k, kind in enumerate(kinds):
            same = [cell for cell in good if (cell.row, cell.variant) == kind]
            points = list(zip(*(found[cell]["series"] for cell in same), strict=False))   # one that diverged is shorter
            xs = np.array([[point[x] for point in seeds] for seeds in points]).mean(1)
            ys = np.array([[point[y] for point in seeds] for seeds in points])
            ax.plot(xs, ys.mean(1), color=f"C{k}", lw=1.3, label=label(table, same[0]))
            ax.fill_between(xs, ys.min(1), ys.max(1), color=f"C{k}", alpha=0.2, lw=0)
        if y == "value":
            logarithmic(ax, "y")
        ax.set(xlabel=LABELS[x], ylabel=LABELS.get(y, drawn(table)[1]))
        ax.grid(alpha=0.3)
    handles, names = axes[0][0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=min(5, len(names)), fontsize=8)
    return fig


def frontier(table: Table, cells: Sequence[Cell], found: Results) -> Figure:
    """The metric against the rows' x, or network calls; a line for the teacher, and one for every kind of student."""
    fig, ax = plt.subplots(figsize=(6.5, 4.6), layout="constrained")
    key, heading = drawn(table)
    good = [cell for cell in cells if "result" in found.get(cell, {})]
    for g, group in enumerate(dict.fromkeys(table.rows[cell.row].group for cell in good)):
        points: dict[float, list[float]] = {}
        for cell in good:
            row, result = table.rows[cell.row], found[cell]["result"]
            if row.group == group:
                points.setdefault(result["nfe"] if row.x is None else row.x, []).append(result[key])
        xs = sorted(points)
        ax.plot(xs, [np.mean(points[x]) for x in xs], "-o", color=f"C{g}", ms=4, label=group)
        ax.vlines(xs, [min(points[x]) for x in xs], [max(points[x]) for x in xs], color=f"C{g}")
    if table.x_log:
        logarithmic(ax, "x")
    logarithmic(ax, "y")
    ax.set(xlabel=table.x, ylabel=heading)
    ax.grid(alpha=0.3, which="both")
    fig.legend(loc="outside lower center", ncols=4, fontsize=8)
    return fig


def scatter(table: Table, cells: Sequence[Cell], found: Results) -> Figure:
    """Samples of the plane, one panel for every row and variant, seed 0, over the modes."""
    from dmd2_plugins.toy.mixture import mixture

    good = [cell for cell in cells if "samples" in found.get(cell, {}) and cell.seed == 0]
    fig, axes = plt.subplots(1, len(good), figsize=(3.6 * len(good), 4.4), layout="constrained", squeeze=False)
    for ax, cell in zip(axes[0], good, strict=True):
        options = cell.recipe.teacher.options
        means = mixture(options["layout"], options["std"]).means
        half = 1.4 * float(means.abs().max())
        ax.scatter(*means.T, s=60, facecolors="none", edgecolors="tab:red", lw=0.8, label="modes of the target")
        ax.scatter(*np.array(found[cell]["samples"]).T, s=2, color="tab:blue", alpha=0.5, label="student samples")
        modes = found[cell]["result"]["value"]
        ax.set_title(f"{label(table, cell)}\n{modes} of {len(means)} modes", fontsize=9)
        ax.set(xlim=(-half, half), ylim=(-half, half), aspect="equal", xlabel="x", ylabel="y")
    handles, names = axes[0][0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=2, fontsize=8, markerscale=2)
    return fig


PICTURES: dict[str, Callable[[Table, Sequence[Cell], Results], Figure]] = {
    "dots": dots,
    "curves": curves,
    "frontier": frontier,
    "scatter": scatter,
}
