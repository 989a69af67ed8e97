"""What a recipe computes, and how long that takes on a card whose peak is stated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dmd2cli.engine import build
from dmd2cli.engine.plan.probe import Rehearsed
from dmd2cli.recipe_stages import Stage


@dataclass(frozen=True)
class Card:
    """memory: GiB. peak: TFLOP/s of dense bf16 matrix products that accumulate in float32, from its data sheet."""

    name: str
    memory: float
    peak: float


CARDS = (
    Card("RTX 3090", 24, 71),
    Card("RTX 4090", 24, 165),
    Card("RTX A6000", 48, 155),
    Card("L40S", 48, 362),
    Card("A100 40GB", 40, 312),
    Card("A100 80GB", 80, 312),
    Card("H100 PCIe", 80, 756),
    Card("H100 SXM", 80, 989),
    Card("H200", 140, 989),
)


@dataclass(frozen=True)
class Cost:
    """Updates, student images and floating point operations, of a cycle or a run."""

    generator_updates: int
    critic_updates: int
    images: int
    flops: float

    def __add__(self, other: Cost) -> Cost:
        ours, theirs = vars(self), vars(other)
        return Cost(**{name: ours[name] + theirs[name] for name in ours})

    def hours(self, peak: float, efficiency: float, gpus: int = 1) -> float:
        """At a share `efficiency` of a peak in TFLOP/s on each of some GPUs."""
        return self.flops / (peak * 1e12 * efficiency * gpus) / 3600


def cost(stage: Stage, found: Rehearsed, steps: range) -> Cost:
    """Of some steps of a stage. A student of n calls is called (n - 1) / 2 times on average to simulate its input."""
    recipe, turns = stage.recipe, build.turns(stage.recipe, stage.first)
    moves = sum(turns.generator(step) for step in steps)
    learns = sum(turns.critic(step) for step in steps)
    simulated = (len(recipe.student.times) - 1) / 2 if recipe.student.input == "simulated" else 0.0
    calls = len(steps) * simulated + len(steps) - moves
    per_image = moves * found.generator.flops + learns * found.critic.flops + calls * found.sample.flops
    return Cost(moves, learns, len(steps) * recipe.run.batch, recipe.run.batch * per_image)


def cycle(stage: Stage, found: Rehearsed) -> Cost:
    """Of one generator update and the steps up to the next."""
    start = stage.first + stage.recipe.critic.warmup
    return cost(stage, found, range(start, start + stage.recipe.ttur))


def whole(stages: Sequence[tuple[Stage, Rehearsed]]) -> Cost:
    """Of the run, up to its last step."""
    first, *rest = (cost(stage, found, range(stage.first, stage.until)) for stage, found in stages)
    return sum(rest, first)
