"""Where the signals of a recipe lay over several seeds: python -m dmd2cli.report.reference RUN RUN ... -o FILE.

The file: {"recipe", "seeds", "steps", "signals": {NAME: {"step", "low", "median", "high"}}}, the last four lists.
Low and high are the extremes over the runs. Packaged ones are recipes/reference/NAME.json.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dmd2cli.doctor.record import Record, read
from dmd2cli.errors import UserError
from dmd2cli.recipe import differences
from dmd2cli.recipe_files import root
from dmd2cli.report.curve import Array, Curve, curve

POINTS = 60
"""Most places on the clock of a run at which a signal is kept."""

KEYS = ("step", "low", "median", "high")
ADVICE = "make one: python -m dmd2cli.report.reference"


@dataclass(frozen=True)
class Band:
    """Of one signal, over the share of run.steps: lowest, median and highest value."""

    share: Array
    low: Array
    median: Array
    high: Array


@dataclass(frozen=True)
class Reference:
    """What a file holds."""

    name: str
    """Of the recipe."""
    seeds: Sequence[int]
    steps: int
    """run.steps of the runs."""
    signals: Mapping[str, Mapping[str, Sequence[float]]]

    @cached_property
    def bands(self) -> dict[str, Band]:
        """By signal."""
        made = dict[str, Band]()
        for name, found in self.signals.items():
            step, low, median, high = (np.array(found[key], dtype=np.float64) for key in KEYS)
            if not len(step) == len(low) == len(median) == len(high):
                raise ValueError(name)
            made[name] = Band(step / self.steps, low, median, high)
        return made


def load(file: Path) -> Reference:
    """Read a file. Raises UserError for one that is no reference."""
    try:
        found = json.loads(file.read_bytes())
        made = Reference(str(found["recipe"]), list(found["seeds"]), int(found["steps"]), dict(found["signals"]))
        if made.steps > 0 and made.bands is not None:
            return made
    except (OSError, ValueError, LookupError, TypeError) as err:
        raise UserError(f"{file}: no reference ({type(err).__name__}); {ADVICE}") from err
    raise UserError(f"{file}: no reference (its steps are not above 0); {ADVICE}")


def of(name: str | None) -> Reference | None:
    """The packaged one of a recipe; None if there is none."""
    file = root() / "reference" / f"{name}.json"
    return load(file) if name is not None and file.is_file() else None


def chosen(asked: str) -> Reference:
    """The one that a person names: a file, or a recipe that has a packaged one."""
    if Path(asked).is_file():
        return load(Path(asked))
    if (found := of(asked)) is not None:
        return found
    there = ", ".join(sorted(path.stem for path in (root() / "reference").glob("*.json"))) or "none"
    raise UserError(f"--reference {asked}: no such file, and no packaged reference of that name; there are: {there}")


def make(runs: Sequence[Record]) -> dict[str, Any]:
    """The contents of the file. Raises UserError for runs that differ in more than their seeds."""
    first = runs[0]
    for run in runs[1:]:
        other = [key for key, *_ in differences(first.recipe, run.recipe) if key not in ("run.seed", "run.threads")]
        if other:
            raise UserError(f"{run.folder}: differs from {first.folder} in {other[0]}; a reference is over seeds alone")
    name = first.packaged or Path(str(first.recipe.preset or first.recipe.teacher.use)).name
    common = [n for n in first.names if all(n in run.names for run in runs)]
    signals = {n: found for n in common if (found := over_runs([curve(run, n) for run in runs]))}
    seeds = [run.recipe.run.seed for run in runs]
    return {"recipe": name, "seeds": seeds, "steps": first.recipe.run.steps, "signals": signals}


def over_runs(curves: Sequence[Curve]) -> dict[str, list[float]]:
    """Extremes and median at the steps that all runs have a finite value of; {} without any."""
    pairs = [zip(one.step.tolist(), one.value.tolist(), strict=True) for one in curves]
    values = [{step: value for step, value in one if math.isfinite(value)} for one in pairs]
    steps = sorted(set.intersection(*(set(one) for one in values)))
    if not steps:
        return {}
    steps = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, min(POINTS, len(steps))).round().astype(int))]
    table = np.array([[one[step] for step in steps] for one in values])
    rows = {"low": table.min(0), "median": np.median(table, 0), "high": table.max(0)}
    return {"step": steps} | {k: [float(f"{v:.5g}") for v in row] for k, row in rows.items()}


def main(args: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    from dmd2cli.report.files import whole

    asked = argparse.ArgumentParser(prog="python -m dmd2cli.report.reference", description="Write a reference band.")
    asked.add_argument("runs", nargs="+", type=Path, help="run folders of one recipe, with different seeds")
    asked.add_argument("-o", "--out", type=Path, required=True, help="the JSON file")
    asked.add_argument("--recipe", help="name of the recipe, where the runs do not record it")
    given = asked.parse_args(args)
    try:
        found = make([read(run) for run in given.runs])
        whole(given.out, json.dumps(found | ({"recipe": given.recipe} if given.recipe else {})).encode())
    except UserError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    print(f"{given.out}: {len(found['signals'])} signals over seeds {found['seeds']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
