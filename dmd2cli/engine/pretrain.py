"""Training a network from scratch: the teachers and classifiers that small examples ship with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmd2cli.core.random import Rng
from dmd2cli.data.base import Loader
from dmd2cli.engine.build import loader
from dmd2cli.engine.player import Player
from dmd2cli.errors import UserError
from dmd2cli.protocols import Raw, Task
from dmd2cli.recipe import PretrainRecipe
from dmd2cli.recipe_build import build
from dmd2cli.weights import save_weights

RESULT = "weights.safetensors"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Examples:
    """A micro-batch of real data with its conditions."""

    x: Tensor
    conditions: list[Raw]
    rows: slice

    def __len__(self) -> int:
        return len(self.x)


@dataclass
class Pretraining:
    """A Job: one player, one loss."""

    recipe: PretrainRecipe
    task: Task
    player: Player
    loader: Loader

    def begin(self) -> None:
        """Nothing: it starts from scratch."""

    def seek(self, step: int) -> None:
        """Nothing: every step is alike."""

    def step(self, step: int) -> Mapping[str, Tensor]:
        run = self.recipe.run
        size = run.micro_batch or run.batch
        batches = [self._examples(step, slice(i, i + size)) for i in range(0, run.batch, size)]
        rng = Rng(run.seed, step)
        torch.manual_seed(rng.generator("network", CPU).initial_seed())            # for dropout and its like

        def loss(batch: Examples) -> dict[str, Tensor]:
            seen = rng.at(batch.rows, run.batch)
            return {"loss": self.task.loss(self.task.network, batch.x, batch.conditions, seen)}

        return self.player.update(loss, batches, step)

    def _examples(self, step: int, rows: slice) -> Examples:
        x, conditions = self.loader.reals(step, rows)
        return Examples(x, conditions, rows)

    def state(self) -> dict[str, Any]:
        return {"players": {"network": self.player.state()}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.player.load_state(state["players"]["network"])

    def publish(self, folder: Path, step: int) -> None:
        """The weights (EMA if there is one) with what made them: recipe, seed, steps, score."""
        best = self.player.best.eval()
        run = self.recipe.run
        made = {"task": self.recipe.task.use, "seed": run.seed, "steps": step, **self.task.score(best)}
        metadata = {"details": json.dumps(dict(self.task.details)), "provenance": json.dumps(made)}
        save_weights(best.state_dict(), folder / RESULT, metadata)
        if self.task.save is not None:
            self.task.save(best, folder)
        self.player.module.train()

    def preview(self, path: Path) -> None:
        """Nothing: a network from scratch is judged by its score."""

    def close(self) -> None:
        self.loader.close()


def pretraining(recipe: PretrainRecipe, device: torch.device) -> Pretraining:
    """The job of a pretraining recipe. Raises UserError if it names no real data."""
    if recipe.data.real is None:
        raise UserError("data.real is missing: pretraining learns from it")
    torch.manual_seed(recipe.run.seed)
    task: Task = build("pretraining", recipe.task, "task")
    player = Player(task.network.to(device).train(), recipe.optimiser, recipe.run.steps, recipe.run.clip)
    return Pretraining(recipe, task, player, loader(recipe.data, recipe.run, device))
