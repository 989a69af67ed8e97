"""Training a network from scratch: the teachers and classifiers that small examples ship with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmd2cli.core.random import Rng
from dmd2cli.data.base import Loader
from dmd2cli.engine.build import loader
from dmd2cli.engine.layout import lay_out
from dmd2cli.engine.parallel import ALONE, World, seed_networks
from dmd2cli.engine.player import Player
from dmd2cli.engine.sharding import gathered, place
from dmd2cli.engine.watch import at
from dmd2cli.errors import UserError
from dmd2cli.protocols import Raw, Task
from dmd2cli.recipe import PretrainRecipe
from dmd2cli.recipe_build import build
from dmd2cli.weights import save_weights

RESULT = "weights.safetensors"


@dataclass(frozen=True)
class Examples:
    """A micro-batch of real data with its conditions."""

    x: Tensor
    conditions: list[Raw]
    rows: slice

    def __len__(self) -> int:
        return len(self.x)


class Learner(nn.Module):
    """A network inside its loss, which may call any part of it: so it is the loss that ranks run together."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.network, self.loss = task.network, task.loss

    def forward(self, x: Tensor, conditions: list[Raw], rng: Rng) -> Tensor:
        return self.loss(self.network, x, conditions, rng)


@dataclass
class Pretraining:
    """A Job: one player, one loss."""

    recipe: PretrainRecipe
    task: Task
    learner: nn.Module
    player: Player
    loader: Loader
    world: World = ALONE
    cycle: int = 1
    over: bool = False

    def seek(self, step: int) -> None:
        """Nothing: every step is alike."""

    def updates(self, step: int) -> int:
        """Every step is one."""
        return step

    def watched(self) -> dict[str, nn.Module]:
        """The network."""
        return {"network": self.player.module}

    def step(self, step: int) -> Mapping[str, Tensor]:
        run, rng = self.recipe.run, Rng(self.recipe.run.seed, step)
        at("data", step)
        batches = self.batches(step)
        seed_networks(run.seed, step, self.world)

        def loss(batch: Examples) -> dict[str, Tensor]:
            return {"loss": self.learner(batch.x, batch.conditions, rng.at(batch.rows, run.batch))}

        at("network")
        found = self.player.update(loss, batches, step)
        return found | ({"update_ratio": self.player.ratio()} if (step + 1) % run.log_every == 0 else {})

    def batches(self, step: int) -> list[Examples]:
        """What a step trains on: this rank's rows."""
        run = self.recipe.run
        mine = range(run.batch)[self.world.rows(run.batch)]
        size = run.micro_batch or run.batch
        parts = [slice(i, min(i + size, mine.stop)) for i in range(mine.start, mine.stop, size)]
        return [Examples(*self.loader.reals(step, rows), rows) for rows in parts]

    def players(self) -> dict[str, Player]:
        """By the name it has in a checkpoint."""
        return {"network": self.player}

    def state(self) -> dict[str, Any]:
        return {"players": {"network": self.player.state()}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.player.load_state(state["players"]["network"])

    def publication(self, folder: Path, step: int) -> Callable[[], None]:
        """The weights (EMA if there is one) with what made them: recipe, seed, steps, score."""
        with self.player.averaged() as network:
            tensors = gathered(network)
        if not self.world.first:
            return lambda: None
        module = self.whole(tensors).eval()
        made = {"task": self.recipe.task.use, "seed": self.recipe.run.seed, "steps": step, **self.task.score(module)}
        if self.task.save is not None:
            self.task.save(module, folder)
        metadata = {"details": json.dumps(dict(self.task.details)), "provenance": json.dumps(made)}
        return lambda: save_weights(tensors, folder / RESULT, metadata)

    def whole(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        """A second network, with these weights: the one that learns may be in shards."""
        with torch.random.fork_rng(devices=[]):
            task: Task = build("pretraining", self.recipe.task, "task")
        task.network.load_state_dict(tensors)
        return task.network.to(self.player.device)

    def preview(self, path: Path) -> None:
        """Nothing: a network from scratch is judged by its score."""

    def close(self) -> None:
        self.loader.close()


def pretraining(
    recipe: PretrainRecipe, device: torch.device, world: World = ALONE, fresh: bool = True
) -> Pretraining:
    """The job of a pretraining recipe. Raises UserError if it names no real data. fresh: as of distill.job()."""
    if recipe.data.real is None:
        raise UserError("data.real is missing: pretraining learns from it")
    torch.manual_seed(recipe.run.seed)
    task: Task = build("pretraining", recipe.task, "task")
    run, network = recipe.run, task.network.train()
    lay_out(world, run, [network], [], device)
    world.rows(run.batch)
    learner = place(Learner(task), world, device)
    player = Player(network, recipe.optimiser, run.steps, run.clip, run, world)
    return Pretraining(recipe, task, learner, player, loader(recipe.data, run, device), world)
