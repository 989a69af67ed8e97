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
SURE = 0.95
"""Of a discriminator: under noise it cannot be right about everything, unless the two sides are far apart."""
CLIPPED = 0.9
"""Share of the gradients: then the clipping sets the rate."""
FEW = 5
"""Logged steps of which a share says nothing."""
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
    return Finding("past-best", name, value, WORSE, says, UNKNOWN, [f"dmd2 sample --student {run.folder / 'best'}"])


def discriminator(run: Record) -> Finding | None:
    """A discriminator that is hardly ever wrong."""
    sides = [run.recent(f"health/accuracy/{side}") for side in ("fake", "real")]
    known = [side for side in sides if side is not None]
    if len(known) < 2 or (value := min(known)) <= SURE:
        return None
    says = f"the discriminator is right about {known[0]:.0%} of the student's samples, {known[1]:.0%} of the real ones"
    change = ["losses.gan_critic.r1=1.0"] if "gan_critic" in run.recipe.losses else []
    return Finding("discriminator", "health/accuracy", value, SURE, says, UNKNOWN, change)


def clipped(run: Record) -> Finding | None:
    """A player whose gradients are nearly always clipped."""
    rates = {player: run.clip_rate(player) or 0.0 for player in ("generator", "critic")}
    player = max(rates, key=lambda name: rates[name])
    if (value := rates[player]) <= CLIPPED or len(run.series(f"{player}/gradient_norm")) < FEW:
        return None
    says = f"{value:.0%} of the {player}'s logged gradients were longer than run.clip"
    return Finding("clipped", f"{player}/clip_rate", value, CLIPPED, says, UNKNOWN)


SYMPTOMS: Sequence[Rule] = (
    *(outside(name) for name in BOUNDS),
    Rule("discriminator", "health/accuracy", f"at most {SURE:g} on one of the sides", discriminator),
    Rule("clipped", "PLAYER/clip_rate", f"at most {CLIPPED:g}", clipped),
    Rule("past-best", "validation/score", f"at most {WORSE:g} times the best of the run", past_its_best),
)


def symptoms(run: Record) -> list[Finding]:
    """All that the student's images show."""
    return [found for rule in SYMPTOMS if (found := rule.find(run)) is not None]
