"""What a run measures of itself while it trains: the `health` of a recipe."""

from __future__ import annotations

from pydantic import Field

from dmd2cli.recipe_base import Interval, Part, Positive, Use
from dmd2cli.recipe_run import Keep, Run

SCORE = "validation/score"
"""The logged value of the validation, turned so that lower is better, of the student as it is published."""


class Validation(Use):
    """A metric by registered name, with its options, of the student as it is published, and without its EMA."""

    every: Positive | None = Field(default=None, description="steps between two measurements; null = run.save_every")
    n: Positive = Field(default=500, description="images of the student")
    patience: Positive | None = Field(default=None, description="end after so many without a better one; null = never")


class Health(Part):
    """Signals that tell a healthy run, logged as health/*, and a metric on a schedule."""

    every: Interval = Field(default="auto", description="steps; auto = an eighth of the run, or 200; null = never")
    samples: Positive = Field(default=64, description="images of the student and of the teacher that are compared")
    validation: Validation | None = Field(default=None, description="`best` follows it; null = no metric")


def signals_every(every: Interval, steps: int) -> int | None:
    """Steps between two measurements; "auto" is one in 200 of a long run, and 8 of a short one."""
    return min(200, max(50, steps // 8)) if every == "auto" else every


def lag_every(every: Interval, steps: int) -> int | None:
    """Steps between two measurements of the critic's lag, which cost more; "auto" is one in 1,000, or 4 of a run."""
    return min(1000, max(100, steps // 4)) if every == "auto" else every


def keep(run: Run, recipe: object) -> Keep:
    """Which checkpoints of a run stay: the best is that of the validation, if there is one and run.keep.by is null."""
    validated = getattr(getattr(recipe, "health", None), "validation", None) is not None
    return run.keep.model_copy(update={"by": SCORE}) if validated and run.keep.by is None else run.keep
