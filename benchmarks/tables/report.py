"""A table as text (Markdown) and as JSON: what is finished, over seeds, beside the paper's numbers."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tables.table import Cell, Table

Results = Mapping[Cell, Mapping[str, Any]]
"""Finished cells and their JSON."""


def results(cells: Sequence[Cell]) -> Results:
    """Of the cells that are finished, with their recipes as they are now."""
    return {cell: cell.held() or {} for cell in cells if cell.finished()}


def lines(cells: Sequence[Cell], found: Results, failed: Mapping[Cell, str]) -> list[dict[str, Any]]:
    """One mapping for every row and variant: the paper's numbers, ours over seeds, and what is missing."""
    made, table = list[dict[str, Any]](), cells[0].table
    for row, variant in sorted(dict.fromkeys((cell.row, cell.variant) for cell in cells), key=order(table)):
        here = [cell for cell in cells if (cell.row, cell.variant) == (row, variant)]
        good = [found[cell] for cell in here if "result" in found.get(cell, {})]
        diverged = sum("diverged" in found.get(cell, {}) for cell in here)
        ours = {key: mean_std(numbers(good, "result", key)) for key in table.columns}
        cost = {key: statistics.mean(of_cells) for key in COST if (of_cells := numbers(good, "cost", key))}
        counts = {"finished": len(good), "diverged": diverged, "failed": sum(cell in failed for cell in here)}
        made.append({
            "row": row,
            "variant": variant,
            "title": table.rows[row].title,
            "paper": dict(table.rows[row].paper),
            "overrides": [*table.overrides, *table.rows[row].overrides, *table.rows[row].variants[variant]],
            "ours": {key: value for key, value in ours.items() if value},
            **cost,
            "nfe": good[0]["result"]["nfe"] if good else None,
            "cells": counts | {"not run": len(here) - sum(counts.values())},
            "seeds": [one(cell, found.get(cell), failed.get(cell)) for cell in here],
        })  # fmt: skip
    return made


COST = ("steps", "generator_updates", "critic_updates", "cpu_seconds")


def numbers(good: Sequence[Mapping[str, Any]], part: str, key: str) -> list[float]:
    """A number of every cell that has it."""
    return [held[part][key] for held in good if held.get(part) and held[part].get(key) is not None]


def order(table: Table) -> Callable[[tuple[str, str]], int]:
    """Rows as they stand in the table, the variants of a row below one another."""
    rows = list(table.rows)
    return lambda line: rows.index(line[0])


def one(cell: Cell, held: Mapping[str, Any] | None, failure: str | None) -> dict[str, Any]:
    """What the summary says of one cell: all but the recipe and the samples."""
    if held is None:
        return {"seed": cell.seed, "failed" if failure else "not run": failure or True}
    return {"seed": cell.seed} | {k: held[k] for k in SUMMARY if held.get(k)}


SUMMARY = ("result", "cost", "series", "diverged", "taken_from", "note")


def mean_std(values: Sequence[float]) -> dict[str, float] | None:
    """Mean and, of two values or more, the standard deviation with n - 1."""
    if not values:
        return None
    spread = {"std": statistics.stdev(values)} if len(values) > 1 else {}
    return {"mean": statistics.mean(values), **spread, "n": len(values)}


def text(table: Table, made: Sequence[Mapping[str, Any]]) -> str:
    """The table in Markdown, aligned."""
    papers = list(dict.fromkeys(name for row in table.rows.values() for name in row.paper))
    columns = {key: title for key, title in table.columns.items() if any(key in line["ours"] for line in made)}
    first = next(iter(table.columns))
    columns = {first: table.columns[first], **columns}
    heads = ["row", "variant", *(f"paper: {p}" for p in papers), *columns.values(), "calls", "updates G / critic"]
    rows = [[*heads, "CPU s", "seeds"]]
    for line in made:
        paper = [number(line["paper"].get(name)) for name in papers]
        ours = [spread(line["ours"].get(key)) for key in columns]
        ours[0] = ours[0] or states(line["cells"]).partition(" ")[2].partition(",")[0]
        updates = f"{line['generator_updates']:.0f} / {line['critic_updates']:.0f}" if "cpu_seconds" in line else ""
        cost = [number(line["nfe"]), updates, f"{line['cpu_seconds']:.0f}" if "cpu_seconds" in line else ""]
        rows.append([line["title"], line["variant"], *paper, *ours, *cost, states(line["cells"])])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    body = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    seeds = [(f"{line['title']}, {line['variant']}", seed) for line in made for seed in line["seeds"]]
    notes = [f"{name}, seed {s['seed']}: {s[key]}" for name, s in seeds for key in ("note", "failed") if key in s]
    return "\n".join([f"{table.title} ({table.source})", "", *body, *notes, ""])


def number(value: float | None) -> str:
    """Shortest form; nothing for None."""
    return "" if value is None else f"{value:g}"


def spread(value: Mapping[str, float] | None) -> str:
    """mean ± std, to a thousandth or four digits."""
    if value is None:
        return ""
    digits = 3 if value["mean"] < 10 else 2 if value["mean"] < 100 else 1
    return " ± ".join(f"{value[key]:.{digits}f}" for key in ("mean", "std") if key in value)


def states(counts: Mapping[str, int]) -> str:
    """How many cells are in which state."""
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def summary(
    table: Table, made: Sequence[Mapping[str, Any]], command: str, budget: float, minutes: float
) -> dict[str, Any]:
    """The JSON of a table. budget, minutes: of the last command, and used by all of them."""
    return {
        "title": table.title,
        "source": table.source,
        "recipe": table.recipe,
        "metric": table.metric,
        "command": command,
        "budget_minutes": budget,
        "minutes": round(minutes, 1),
        "hardware": hardware(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "lines": list(made),
    }


def hardware() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
