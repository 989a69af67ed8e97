"""A job that counts its CPU seconds, and measures its student now and then while it trains."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmd2cli.data.base import Batch
from dmd2cli.engine.checkpoint import write_json, write_text
from dmd2cli.engine.distill import DistillJob
from dmd2cli.engine.evaluate import measure
from dmd2cli.engine.player import Player
from dmd2cli.protocols import Metric
from dmd2cli.recipe import Recipe

N = 2000
"""Samples of a measurement during training."""


@dataclass
class Probed:
    """A distillation as the trainer runs it, and beside it what a cell records: cell.json and series.jsonl."""

    job: DistillJob
    folder: Path
    every: int
    """Steps between measurements; 0 = never."""
    metric: Callable[[], Metric]
    seconds: float = 0.0
    """CPU seconds of training so far; measuring, saving and starting are not in it."""
    done: int = 0
    series: list[dict[str, float]] = field(default_factory=list)

    @property
    def recipe(self) -> Recipe:
        return self.job.recipe

    @property
    def cycle(self) -> int:
        return self.job.cycle

    @property
    def over(self) -> bool:
        return self.job.over

    def updates(self, step: int) -> int:
        return self.job.updates(step)

    def players(self) -> Mapping[str, Player]:
        return self.job.players()

    def watched(self) -> Mapping[str, nn.Module]:
        return self.job.watched()

    def batches(self, step: int) -> Sequence[Batch]:
        return self.job.batches(step)

    def seek(self, step: int) -> None:
        self.job.seek(step)

    def step(self, step: int) -> Mapping[str, Tensor]:
        started = time.process_time()
        values = self.job.step(step)
        self.seconds += time.process_time() - started
        self.done = step + 1
        if self.every and self.done % self.every == 0:
            self.series.append(self.facts() | self.measured())
        return values

    def facts(self) -> dict[str, Any]:
        """Steps, updates of both players, CPU seconds."""
        d = self.job.distillation
        critic = sum(critic.updates for critic in d.critics)
        updates = {"generator_updates": d.generator.updates, "critic_updates": critic}
        return {"steps": self.done, **updates, "cpu_seconds": round(self.seconds, 3)}

    def measured(self) -> dict[str, float]:
        """value: the metric of N samples of the averaged student. brightness: of the weights themselves, if known."""
        with self.job.source() as source:
            found = {"value": measure(self.metric(), source, N, seed=0)["value"]}
        real = self.job.loader.real
        if real is None:
            return found
        raw = replace(source, network=self.job.distillation.generator.module)
        mean = raw.images(raw.conditions(N), seed=0).float().mean().item()
        data = torch.stack([real[i].x for i in range(len(real))])
        return found | {"brightness": mean - source.teacher.decode(data).float().mean().item()}

    def state(self) -> dict[str, Any]:
        cell = {"seconds": torch.tensor(self.seconds, dtype=torch.float64), "done": torch.tensor(self.done)}
        return {**self.job.state(), "cell": cell}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.job.load_state(state)
        self.seconds, self.done = float(state["cell"]["seconds"]), int(state["cell"]["done"])
        self.series = [point for point in read_series(self.folder) if point["steps"] <= self.done]

    def publication(self, folder: Path, step: int) -> Callable[[], None]:
        student, facts = self.job.publication(folder, step), self.facts()
        series = "".join(f"{json.dumps(point)}\n" for point in self.series)

        def write() -> None:
            student()
            write_json(folder / "cell.json", facts)
            write_text(folder / "series.jsonl", series)

        return write

    def close(self) -> None:
        self.job.close()

    def preview(self, path: Path) -> None:
        """None: a picture costs time and nobody looks."""


def read_series(folder: Path) -> list[dict[str, float]]:
    """The measurements during training in a run folder."""
    path = folder / "series.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
