"""One cell: train it through the engine, or continue, or take it from a table that has it; measure it; write JSON."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dmd2cli import registry
from dmd2cli.engine import distill
from dmd2cli.engine.build import teacher_source
from dmd2cli.engine.checkpoint import write_json
from dmd2cli.engine.evaluate import measure
from dmd2cli.engine.parallel import World
from dmd2cli.engine.run import run
from dmd2cli.errors import Diverged
from dmd2cli.protocols import Metric
from dmd2cli.recipe import Recipe
from dmd2cli.recipe_build import build, check
from dmd2cli.source import Source
from dmd2cli.student import load_student
from tables.probe import Probed, read_series
from tables.table import Cell, changes

CPU = torch.device("cpu")
SAMPLES = 1000
"""Samples of a toy cell that are kept for its picture."""


def run_cell(cell: Cell) -> None:
    """Finish a cell. Raises UserError if its recipe is wrong, KeyboardInterrupt (after saving) if it is stopped."""
    torch.set_num_threads(1)
    check(cell.recipe)
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    with only_one(cell):
        if not cell.finished():
            note = set_aside(cell)
            found = twin(cell) or (of_teacher(cell) if cell.teacher else of_student(cell))
            place = {"table": cell.name, "row": cell.row, "variant": cell.variant, "seed": cell.seed, "note": note}
            kept = {"overrides": cell.overrides, "asked": cell.asked(), "measure": cell.measure()}
            write_json(cell.result, {**place, **kept, **found})


@contextmanager
def only_one(cell: Cell) -> Iterator[None]:
    """Wait for another process that is at this cell already."""
    with cell.folder.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def set_aside(cell: Cell) -> str:
    """Rename what an earlier recipe left at the place of this cell; returns what to say about it."""
    asked = cell.folder / "asked.json"
    held = (cell.held() or {}).get("asked") or cell.held(asked)
    found = changes(held, cell.asked()) if held else []
    if not found:
        return ""
    k = next(k for k in range(1, 1000) if not any(p.exists() for p in aside(cell, k).values()))
    for old, new in aside(cell, k).items():
        if old.exists():
            os.replace(old, new)
    note = f"recipe changed ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''}): run again, the earlier one is "
    note += f"kept as {cell.folder.name}.changed-{k}"
    print(f"{cell}: {note}", file=sys.stderr)
    return note


def aside(cell: Cell, k: int) -> dict[Path, Path]:
    """Files of a cell -> what they are called when the recipe has changed for the k-th time."""
    folder = cell.folder.with_name(f"{cell.folder.name}.changed-{k}")
    return {cell.folder: folder, cell.result: folder.with_name(f"{folder.name}.json")}


def twin(cell: Cell) -> dict[str, Any] | None:
    """The findings of a finished cell of the same recipe and measurement, in this table or another."""
    for path in sorted(cell.out.glob(f"*/*/*/seed-{cell.seed}.json")):
        held = cell.held(path)
        if held and held["measure"] == cell.measure() and has_columns(cell, held):
            same = [c for c in changes(held["asked"], cell.asked()) if cell.table.points or not c.startswith("points ")]
            if not same:
                kept = ("result", "cost", "series", "samples", "diverged")
                taken = f"{held['table']} / {held['row']} / {held['variant']}"
                return {**{key: held[key] for key in kept if key in held}, "taken_from": taken}
    return None


def has_columns(cell: Cell, held: Mapping[str, Any]) -> bool:
    """Whether some findings have all that the table of the cell shows."""
    return "diverged" in held or cell.table.columns.keys() <= held["result"].keys()


def of_student(cell: Cell) -> dict[str, Any]:
    """Train and measure; a run that diverges is a result too."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    write_json(cell.folder / "asked.json", cell.asked())
    try:
        train(cell)
    except Diverged as err:
        return {"diverged": str(err).removeprefix(f"{cell.folder}: "), "series": read_series(cell.folder)}
    cost = cell.held(cell.folder / "cell.json")
    return {**measured(cell, load_student(cell.folder).source), "cost": cost, "series": read_series(cell.folder)}


def of_teacher(cell: Cell) -> dict[str, Any]:
    """Measure the recipe's teacher under the recipe's guidance."""
    matching = cell.recipe.losses.get("distribution_matching")
    guidance = matching.options.get("guidance", 1.0) if matching else 1.0
    return measured(cell, replace(teacher_source(cell.recipe, CPU), guidance=guidance))


def train(cell: Cell) -> None:
    """The engine's own run, its job wrapped in one that counts and measures."""
    every = max(1, cell.recipe.run.steps // cell.table.points) if cell.table.points else 0

    def job(recipe: Recipe, device: torch.device, world: World, fresh: bool) -> Probed:
        return Probed(distill.job(recipe, device, world, fresh), cell.folder, every, lambda: metric(cell))

    if run(cell.recipe, cell.folder, job, command="ablations") < cell.recipe.run.steps:
        raise KeyboardInterrupt


def measured(cell: Cell, source: Source) -> dict[str, Any]:
    """The metric's numbers; of images their brightness, 0 to 255; of points of the plane some of them."""
    result = measure(metric(cell), source, cell.n, cell.measure()["seed"])
    if cell.table.metric != "modes":
        images = source.images(source.conditions(SAMPLES), seed=0)
        return {"result": result | {"brightness": images.float().mean().item()}}
    x = source.latents([None] * SAMPLES, seed=0, numbers=range(SAMPLES))
    return {"result": result, "samples": [[round(v, 4) for v in point] for point in x.tolist()]}


def metric(cell: Cell) -> Metric:
    """A fresh metric of the table, with the options that the recipe gives it."""
    for i, use in enumerate(cell.recipe.metrics):
        if use.use == cell.table.metric:
            return build("metrics", use, f"metrics.{i}")
    return registry.load("metrics", cell.table.metric)()
