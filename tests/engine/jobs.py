"""A job of the trainer that is nothing but its bookkeeping."""

from __future__ import annotations

import json
from types import SimpleNamespace

import torch

from dmd2cli.engine.player import Player
from dmd2cli.engine.pretrain import Examples
from dmd2cli.recipe import Optimiser, Run


class Walk:
    """A random walk whose step k is a function of k; it notes what the trainer asks of it."""

    def __init__(self, bad=None, act=None):
        """bad: {step done: value it logs}. act: called with the step done, while it is trained."""
        self.place, self.bad, self.act, self.asked = torch.zeros(3), bad or {}, act or (lambda step: None), []

    cycle, recipe, over = 1, None, False

    def updates(self, step):
        return step

    def players(self):
        return {}

    def watched(self):
        return {}

    def batches(self, step):
        return []

    def seek(self, step):
        pass

    def step(self, step):
        self.place += torch.randn(3, generator=torch.Generator().manual_seed(step))
        self.act(step + 1)
        self.asked.append(("step", step + 1))
        seldom = {"seldom": torch.tensor(step)} if step % 5 == 0 else {}
        return {"often": torch.as_tensor(self.bad.get(step + 1, self.place.sum())).float(), **seldom}

    def state(self):
        return {"walk": {"place": self.place}}

    def load_state(self, state):
        self.place = state["walk"]["place"]

    def publication(self, folder, step):
        self.asked.append(("publish", step))
        text = json.dumps({"step": step, "place": self.place.tolist()})
        return lambda: (folder / "result.json").write_text(text)

    def preview(self, path):
        self.asked.append(("preview", int(path.stem.removeprefix("step-"))))

    def close(self):
        self.asked.append(("close", 0))

    def when(self, what):
        """The steps at which the trainer asked for something."""
        return [step for asked, step in self.asked if asked == what]


class Fit(Walk):
    """A line fitted by a player; its loss is multiplied by bad[step done]."""

    def __init__(self, bad=None, act=None):
        super().__init__(bad, act)
        torch.manual_seed(0)
        self.player = Player(torch.nn.Linear(3, 1), Optimiser(lr=0.01), 100, 1.0)
        self.recipe = SimpleNamespace(run=settings(9))

    def weights(self):
        return self.player.parameters[0].detach().clone()

    def players(self):
        return {"network": self.player}

    def watched(self):
        return {"network": self.player.module}

    def batches(self, step):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        return [Examples(x, [None] * 4, slice(0, 4))]

    def step(self, step):
        self.act(step + 1)
        self.asked.append(("step", step + 1))
        factor = self.bad.get(step + 1, 1.0)
        loss = lambda batch: {"loss": factor * (self.player.module(batch.x) - batch.x.sum(1)).square().mean()}  # noqa: E731
        return self.player.update(loss, self.batches(step), step)

    def state(self):
        return {"players": {"network": self.player.state()}}

    def load_state(self, state):
        self.player.load_state(state["players"]["network"])

    def publication(self, folder, step):
        self.asked.append(("publish", step))
        return lambda: None


def settings(steps, **changes):
    return Run(**{"steps": steps, "batch": 4, "log_every": 2, "save_every": 4, "preview_every": 5, **changes})
