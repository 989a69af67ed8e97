"""What a table, a row and a cell are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha1
from pathlib import Path
from typing import Any

from dmd2cli.engine.run import FREE
from dmd2cli.errors import UserError
from dmd2cli.recipe import Recipe, differences, load

ALWAYS = ("run.threads=1", "run.device=cpu", "run.keep=1")
"""Overrides of every cell."""
PAIRS = "{pairs}"
"""In an override: the folder of the table's noise-image pairs, which are then made first."""
TEACHER = ("teacher.", "sampler.")
"""Overrides that matter to pairs begin so."""


@dataclass(frozen=True, eq=False)
class Row:
    """One row: what is trained, and what the paper got with it."""

    title: str
    paper: Mapping[str, float] = field(default_factory=dict)
    """Heading of the paper's number -> the number."""
    overrides: Sequence[str] = ()
    variants: Mapping[str, Sequence[str]] = field(default_factory=lambda: {"run": ()})
    """Variant -> further overrides. A row lacks a variant that is not here."""
    teacher: bool = False
    """Measure the teacher with the recipe's sampler and guidance, and train nothing."""
    x: float | None = None
    """Where it lies on the x axis of a frontier; None = at its network calls."""
    group: str = "student"
    """The line of a frontier that it belongs to."""


@dataclass(frozen=True, eq=False)
class Table:
    """A table of a paper on small data. Overrides are laid over the recipe in the order table, row, variant, user."""

    title: str
    source: str
    recipe: str
    rows: Mapping[str, Row]
    overrides: Sequence[str] = ()
    metric: str = "fd-digits"
    columns: Mapping[str, str] = field(default_factory=lambda: FD)
    """Key of the metric's answer -> heading; the first is the one that is drawn."""
    pairs: int = 0
    """Noise-image pairs to make, if a row asks for them."""
    points: int = 0
    """Measurements during training; 0 = none."""
    picture: str = "dots"
    """The function of plots.py."""
    panels: Sequence[tuple[str, str]] = (("generator_updates", "value"), ("cpu_seconds", "value"))
    """x and y of curves: keys of a measurement during training."""
    x: str = "network calls per sample"
    """Label of the x axis of a frontier."""
    x_log: bool = True
    """Is it logarithmic?"""


FD = {
    "value": "FD-digits",
    "precision": "precision",
    "recall": "recall",
    "class_accuracy": "class accuracy",
    "diversity": "diversity",
}
MODES = {"value": "modes", "quality": "share in a mode", "kl": "KL of mode weights, nats"}


@dataclass(frozen=True, eq=False)
class Cell:
    """A row, a variant and a seed of a table; where its files are."""

    name: str
    table: Table
    row: str
    variant: str
    seed: int
    out: Path
    n: int = 5000
    """Samples of the measurement."""
    extra: tuple[str, ...] = ()
    """The user's overrides."""

    def __str__(self) -> str:
        return f"{self.name}: {self.row} / {self.variant}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Of its run."""
        return self.out / self.name / self.row / self.variant / f"seed-{self.seed}"

    @property
    def result(self) -> Path:
        """Its numbers, as JSON; not there until it is finished."""
        return self.folder.with_suffix(".json")

    @property
    def teacher(self) -> bool:
        """Does it measure the teacher?"""
        return self.table.rows[self.row].teacher

    @property
    def overrides(self) -> list[str]:
        """All of them, the later ones winning, before {pairs} is filled in."""
        row = self.table.rows[self.row]
        found = [*ALWAYS, f"run.seed={self.seed}", *self.table.overrides, *row.overrides, *row.variants[self.variant]]
        return [*found, *self.extra]

    @property
    def pairs(self) -> Path | None:
        """The folder of the pairs that it needs, the same for all cells with the same teacher."""
        if not any(PAIRS in text for text in self.overrides):
            return None
        key = sha1(json.dumps([self.table.pairs, *self.teachers]).encode()).hexdigest()[:8]
        return self.out / "pairs" / f"{self.table.recipe}-{self.table.pairs}-{key}"

    @property
    def teachers(self) -> list[str]:
        """The overrides that matter to pairs."""
        return [text for text in (*self.table.overrides, *self.extra) if text.startswith(TEACHER)]

    @cached_property
    def recipe(self) -> Recipe:
        """Its recipe. Raises UserError if it is wrong."""
        return load(self.table.recipe, [text.replace(PAIRS, str(self.pairs)) for text in self.overrides])

    def asked(self) -> dict[str, Any]:
        """What determines its training, as JSON values."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "subject": "teacher" if self.teacher else "student",
            "points": self.table.points,
        }

    def measure(self) -> dict[str, Any]:
        """What determines its measurement. A student's seed is 0; a teacher, which is always the same, has others."""
        return {"metric": self.table.metric, "n": self.n, "seed": self.seed if self.teacher else 0}

    def held(self, path: Path | None = None) -> dict[str, Any] | None:
        """Its finished result, or None."""
        path = path or self.result
        return json.loads(path.read_text()) if path.is_file() else None

    def finished(self) -> bool:
        """Is there a result of this very recipe and measurement? No, if the recipe is wrong."""
        found = self.held()
        if found is None or found["measure"] != self.measure():
            return False
        try:
            return not changes(found["asked"], self.asked())
        except UserError:
            return False


def cells(name: str, table: Table, seeds: int, out: Path, n: int, extra: Sequence[str]) -> list[Cell]:
    """All cells of a table in the order they run: every row has seed 0 before any has seed 1."""
    variants = dict.fromkeys(variant for row in table.rows.values() for variant in row.variants)
    places = [(v, key) for v in variants for key, row in table.rows.items() if v in row.variants]
    return [Cell(name, table, r, v, seed, out, n, tuple(extra)) for seed in range(seeds) for v, r in places]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """"KEY OLD -> NEW" of all that makes two cells train differently."""
    return list(_changes(old, new))


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    try:
        before, after = (Recipe.model_validate_json(json.dumps(asked["recipe"])) for asked in (old, new))
    except ValueError:                                      # a recipe of an earlier dmd2cli
        yield "recipe format"
        return
    for key, a, b in differences(before, after):
        if key not in {f"run.{free}" for free in FREE}:
            yield f"{key} {a} -> {b}"
    yield from (f"{key} {old[key]} -> {new[key]}" for key in ("subject", "points") if old[key] != new[key])
