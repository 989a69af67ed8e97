"""What a run folder says of its run: the recipe, the logged numbers, the circumstances."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from dmd2cli.errors import UserError
from dmd2cli.recipe import Recipe, load
from dmd2cli.recipe_files import packaged
from dmd2cli.recipe_health import signals_every

RECENT = 1 / 3
"""Share of the measurements of a signal, the newest, that tell how things stand."""


@dataclass(frozen=True)
class Record:
    """Of one run. A number that was not finite is NaN."""

    folder: Path
    recipe: Recipe
    facts: Mapping[str, Any]
    """run.json"""
    rows: Sequence[Mapping[str, float]]
    """Of metrics.jsonl, by rising step; not every row has every number."""

    @property
    def step(self) -> int:
        """The newest logged step."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    @cached_property
    def names(self) -> list[str]:
        """Of all numbers that were ever logged, in the order of their first appearance."""
        return list(self.columns)

    @cached_property
    def columns(self) -> dict[str, tuple[list[int], list[float]]]:
        """(steps, values) of every number, in one pass over the rows: a run may have logged a hundred thousand."""
        found = dict[str, tuple[list[int], list[float]]]()
        for row in self.rows:
            step = int(row["step"])
            for name, value in row.items():
                if name != "step":
                    steps, values = found.setdefault(name, ([], []))
                    steps.append(step)
                    values.append(value)
        return found

    def series(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of a number; it is repeated at every logged step until it is measured again."""
        return list(zip(*self.columns.get(name, ([], [])), strict=True))

    @property
    def measurements(self) -> int:
        """How often the run has measured its health."""
        every = signals_every(self.recipe.health.every, self.recipe.run.steps)
        there = any(name.startswith("health/") for name in self.names)
        return self.step // every if there and every is not None else 0

    def clip_rate(self, player: str) -> float | None:
        """Share of the logged gradients of a player that were longer than run.clip; None without clipping."""
        config = self.recipe.student if player == "generator" else self.recipe.critic
        clip = self.recipe.run.clip if config.clip == "run" else config.clip
        norms = [norm for _, norm in self.series(f"{player}/gradient_norm") if math.isfinite(norm)]
        return sum(norm > clip for norm in norms) / len(norms) if clip is not None and norms else None

    def recent(self, name: str) -> float | None:
        """The median of the newest RECENT of a number's values; None if it was never finite."""
        values = [value for _, value in self.series(name)]
        newest = [value for value in values[-max(1, round(len(values) * RECENT)) :] if math.isfinite(value)]
        return median(newest) if newest else None

    def overall(self, name: str) -> float | None:
        """The median of all of a number's values; None if it was never finite."""
        values = [value for _, value in self.series(name) if math.isfinite(value)]
        return median(values) if values else None

    @cached_property
    def packaged(self) -> str | None:
        """The name of the packaged recipe that the run was started from."""
        command = str(self.facts.get("command") or "")
        if command.startswith("dmd2 demo"):
            return "digits"
        words = command.split()[2:]                                # they were joined without quotes
        before = zip(["", *words], words, strict=False)
        plain = [word for last, word in before if not word.startswith("-") and last not in ("-o", "--out")]
        name = next((word for word in plain if "=" not in word), "")
        return Path(name).stem if Path(name).stem in packaged() else None

    @cached_property
    def reference(self) -> Recipe | None:
        """The packaged recipe that the run was started from, without what was changed of it."""
        try:
            return load(packaged()[self.packaged]) if self.packaged is not None else None
        except UserError:
            return None


def read(folder: Path) -> Record:
    """Of a run folder. Raises UserError for one that holds no distillation, or nothing logged that can be read."""
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"{folder}: no run folder (there is no recipe.yaml in it); name one, such as runs/digits")
    recipe = load(folder / "recipe.yaml")
    file = folder / "metrics.jsonl"
    if not file.is_file():
        first = f"the first line comes at step {recipe.run.log_every} (run.log_every)"
        raise UserError(f"{folder}: nothing is logged yet; {first}")
    facts = folder / "run.json"
    text = facts.read_text(encoding="utf-8", errors="replace") if facts.is_file() else ""
    return Record(folder, recipe, as_json(text), rows(file))


def rows(file: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl; one that a crash cut short is left out. Raises UserError if none can be read."""
    found = list[dict[str, float]]()
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            row = as_json(line)
            if math.isfinite(number(row.get("step"))):
                found.append({name: number(value) for name, value in row.items()})
    if not found:
        raise UserError(f"{file}: no line of it can be read; is it the file of another program?")
    return found


def as_json(text: str) -> dict[str, Any]:
    """An object, {} for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def number(value: Any) -> float:
    """A logged value; null, and whatever is no number, is NaN."""
    try:
        return float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:                                      # an integer of hundreds of digits
        return math.nan
