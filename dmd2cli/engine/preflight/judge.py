"""Is the configured reading the right one: the verdict on a teacher's output, its noise levels and its schedule."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from dmd2cli import registry
from dmd2cli.doctor.causes import SLOPE
from dmd2cli.doctor.finding import Finding
from dmd2cli.engine.preflight.candidates import candidates
from dmd2cli.engine.preflight.reading import WORSE, Fit, Reading, fitted
from dmd2cli.engine.preflight.subject import Subject
from dmd2cli.recipe import Recipe

MARGIN = 0.98
"""Mean error of another reading over the configured one's, below which the other one is right. The nearest wrong one of
the teachers in docs/preflight.md errs 1.05 times as much as the right one; an index off by one makes no difference."""
OWN_MARGIN = 0.8
"""The same on samples of the teacher's own: few sampling steps blur them, as if made by another reading."""
RULES = {"output": "prediction", "noise": "noise-level", "schedule": "schedule"}
CAUSES = {
    "output": "the network predicts something else than it is configured for",
    "noise": "the network is told another noise level than it sees: units of sigma, or another clock",
    "schedule": "the noise of a time is another one than in its training",
}


def fits(s: Subject, own: Reading) -> list[Fit]:
    """The configured reading first, then all others, the best first.

    On samples of its own, a reading that is wrong has made them wrong as well. So where the configured one does not
    denoise them, every other is measured on samples that it draws itself.
    """
    first = fitted(own, s)
    others = candidates(s.teacher, s.std)
    if s.real or first.error <= WORSE:
        return [first, *sorted((fitted(one, s) for one in others), key=lambda fit: fit.mean)]
    drawn = [fitted(one, s.drawn(one)) for one in others if one.kind != "noise"]
    return [first, *sorted((fit for fit in drawn if fit.error <= WORSE), key=lambda fit: abs(fit.slope))]


def findings(recipe: Recipe, found: Sequence[Fit]) -> list[Finding]:
    """The reading that fits better, or what is wrong where none does. found: as fits() gives them."""
    own, *others = found
    best = next((fit for fit in others if fit.error <= WORSE), None)
    if best is not None and wins(best, own):
        return [better(recipe, own, best)]
    if own.error > WORSE:
        says = f"in one step the teacher errs {own.error:.3g} times as much as the best linear prediction of its input"
        cause = "no reading of its output is better: its weights are untrained, damaged, or of other data or latents"
        return [Finding("teacher-error", "error", own.error, WORSE, says, cause)]
    if own.real and abs(own.slope) > SLOPE:
        side = "leaves noise in" if own.slope < 0 else "smooths too much"
        says = f"the teacher {side}: {abs(own.slope):.2g} of what it takes away is wrong"
        cause = "none of the known schedules fits better: a schedule of its own, other data, or too little training"
        return [Finding("teacher-noise", "slope", own.slope, SLOPE, says, cause)]
    return []


def wins(other: Fit, own: Fit) -> bool:
    """Whether another reading is the right one. One that draws what it denoises wins over one that does not."""
    if not own.real and own.error > WORSE:
        return True
    return other.mean < (MARGIN if own.real else OWN_MARGIN) * own.mean


def better(recipe: Recipe, own: Fit, other: Fit) -> Finding:
    """That another reading fits, and by how much."""
    kind, name = other.reading.kind, other.reading.name
    if own.real:
        value, bound = other.mean / own.mean, MARGIN
        says = f"read as {name} it errs {other.mean:.3g} of the best linear prediction, as configured {own.mean:.3g}"
    else:
        value, bound = own.error, WORSE
        says = f"read as {name} it draws what it denoises: error {other.error:.3g}, as configured {own.error:.3g}"
    return Finding(RULES[kind], "error", value, bound, says, CAUSES[kind], [change(recipe, other.reading)])


def change(recipe: Recipe, reading: Reading) -> str:
    """How to configure a reading: an override where this teacher has such an option, else in words."""
    name, options = reading.name, inspect.signature(registry.load("teachers", recipe.teacher.use)).parameters
    key, _, value = name.partition(" ")
    if reading.kind == "output" and "prediction" in options and name in ("eps", "v", "flow"):
        return f"teacher.prediction={name}"
    if reading.kind == "schedule" and key in options:
        return f"teacher.{key}={value}"
    if reading.kind == "schedule":
        return f"the teacher's schedule: {name}"
    return f"the teacher's output: {name}" if reading.kind == "output" else f"what the network is told: {name}"
