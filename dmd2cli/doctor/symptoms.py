"""Rules over what the student draws: each can have several causes, so the cause is named elsewhere, or unknown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dmd2cli.doctor.finding import UNKNOWN, Finding, Rule
from dmd2cli.doctor.record import Record

BOUNDS: dict[str, tuple[float, float, str]] = {
    "health/mean_shift": (-math.inf, 0.25, "the mean of a channel is {value:.2g} deviations from the teacher's"),
    "health/std_ratio": (0.8, 1.25, "the spread of a channel is {value:.2f} times the teacher's"),
    "health/brightness": (-0.1, 0.1, "images are {value:+.2f} brighter than the teacher's (0 black, 1 white)"),
    "health/contrast": (0.75, 1.33, "contrast within an image is {value:.2f} times the teacher's"),
    "health/saturation": (0.6, 1.6, "saturation is {value:.2f} times the teacher's"),
    "health/high_frequency": (0.6, 1.6, "fine detail has {value:.2f} times the teacher's share of an image"),
    "health/diversity": (0.6, math.inf, "images of one condition are {value:.2f} times as far apart as the teacher's"),
}
"""Number -> (lowest, highest, what it says)."""
WORSE = 1.5
"""Times the best score of the run, for a validation of which less is better."""


def outside(name: str) -> Rule:
    """The rule that a number stays within its bounds."""
    low, high, says = BOUNDS[name]

    def find(run: Record) -> Finding | None:
        value = run.recent(name)
        if value is None or low <= value <= high:
            return None
        crossed = low if value < low else high
        return Finding(name.split("/")[-1], name, value, crossed, says.format(value=value), UNKNOWN)

    return Rule(name.split("/")[-1], name, between(low, high), find)


def between(low: float, high: float) -> str:
    """Bounds in words."""
    if math.isinf(low):
        return f"at most {high:g}"
    return f"at least {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"


def past_its_best(run: Record) -> Finding | None:
    """A validation that was much better once."""
    name = "validation/score"
    values = [value for _, value in run.series(name) if math.isfinite(value)]
    now = run.recent(name)
    if now is None or len(values) < 3 or min(values) <= 0 or (value := now / min(values)) <= WORSE:
        return None
    says = f"the validation was {min(values):.3g} at its best, and is {now:.3g} now"
    return Finding("past-best", name, value, WORSE, says, UNKNOWN, ["dmd2 sample --student RUN/best"])


SYMPTOMS: Sequence[Rule] = (
    *(outside(name) for name in BOUNDS),
    Rule("past-best", "validation/score", f"at most {WORSE:g} times the best of the run", past_its_best),
)


def symptoms(run: Record) -> list[Finding]:
    """All that the student's images show."""
    return [found for rule in SYMPTOMS if (found := rule.find(run)) is not None]
