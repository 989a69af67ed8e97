"""A metric on a schedule: what `best` follows, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.distributed as dist
from torch import Tensor

from dmd2cli.engine.parallel import World
from dmd2cli.engine.watch import at
from dmd2cli.protocols import Metric, Raw
from dmd2cli.recipe_build import build
from dmd2cli.recipe_health import SCORE, Validation
from dmd2cli.source import Source

Drawing = Callable[[bool], AbstractContextManager[Source]]
"""What the student draws with, now: with its moving average if it has one and that is asked for, or without."""
SEED = 3
"""Of the noise that is drawn from, the same every time."""


@dataclass
class Validator:
    """Measures, and remembers the best score, the step that had it, and how many measurements ago that was."""

    asked: Validation
    conditions: Sequence[Raw]
    """Of the images, in turn."""
    world: World
    best: float = math.inf
    step: int = 0
    since: int = 0

    @property
    def over(self) -> bool:
        """Whether patience has run out."""
        return self.asked.patience is not None and self.since >= self.asked.patience

    def measured(self, source: Drawing, averages: bool, step: int) -> dict[str, Tensor]:
        """validation/METRIC and validation/score of what is published after `step` steps.

        averages: whether that is a moving average; then validation/METRIC/raw is that of the weights themselves.
        """
        at("validation")
        name, found = self.asked.use, dict[str, float]()
        found[f"validation/{name}"], lower = self.value(source, True)
        found[SCORE] = found[f"validation/{name}"] if lower else -found[f"validation/{name}"]
        if averages:
            found[f"validation/{name}/raw"], _ = self.value(source, False)
        self.since += 1
        if found[SCORE] < self.best:
            self.best, self.step, self.since = found[SCORE], step, 0
        return {name: torch.tensor(value) for name, value in found.items()}

    @cached_property
    def fresh(self) -> Metric:
        """The metric before it has seen anything: what it knows of real data is worked out once."""
        made: Metric = build("metrics", self.asked, "health.validation")
        return made

    def value(self, source: Drawing, averaged: bool) -> tuple[float, bool]:
        """The metric of n images, drawn by all ranks and measured by the first; and whether lower is better."""
        raw = [self.conditions[i % len(self.conditions)] for i in range(self.asked.n)]
        with source(averaged) as drawing:
            images = self.images(drawing, raw)

        def measure() -> tuple[float, bool]:
            metric = deepcopy(self.fresh)
            metric.update(images, raw)
            return float(metric.compute()["value"]), "lower" in str(metric.protocol["direction"])

        value, lower = self.world.shared(measure)              # not patiently: that group is the checkpoint writer's
        return value, lower

    def images(self, source: Source, raw: Sequence[Raw]) -> Tensor:
        """All images in order; every rank draws its share of them."""
        share, found = -(-len(raw) // self.world.size), list[Tensor]()
        for begin in range(0, share, source.batch):
            places = range(self.world.rank * share + begin, self.world.rank * share + min(begin + source.batch, share))
            numbers = [min(i, len(raw) - 1) for i in places]               # the last rank's share may be short of some
            found.append(source.numbered([raw[i] for i in numbers], SEED, numbers))
        own = torch.cat(found)
        if self.world.size == 1:
            return own
        parts = [torch.empty_like(own) for _ in range(self.world.size)]
        dist.all_gather(parts, own)
        return torch.cat(parts)[: len(raw)]

    def state(self) -> Tensor:
        """What a continued run needs: (best score, its step, measurements since)."""
        return torch.tensor([self.best, self.step, self.since], dtype=torch.float64)

    def load_state(self, state: Tensor) -> None:
        """Continue from what state() gave."""
        self.best, self.step, self.since = float(state[0]), int(state[1]), int(state[2])
