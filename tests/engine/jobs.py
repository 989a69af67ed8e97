"""A job of the trainer that is nothing but its bookkeeping."""

from __future__ import annotations

import json

import torch

from dmd2cli.recipe import Run


class Walk:
    """A random walk whose step k is a function of k; it notes what the trainer asks of it."""

    def __init__(self, bad=None, act=None):
        """bad: {step done: value it logs}. act: called with the step done, while it is trained."""
        self.place, self.bad, self.act, self.asked = torch.zeros(3), bad or {}, act or (lambda step: None), []

    def begin(self):
        pass

    def seek(self, step):
        pass

    def step(self, step):
        self.place = self.place + torch.randn(3, generator=torch.Generator().manual_seed(step))
        self.act(step + 1)
        self.asked.append(("step", step + 1))
        seldom = {"seldom": torch.tensor(step)} if step % 5 == 0 else {}
        return {"often": torch.as_tensor(self.bad.get(step + 1, self.place.sum())).float(), **seldom}

    def state(self):
        return {"walk": {"place": self.place}}

    def load_state(self, state):
        self.place = state["walk"]["place"]

    def publish(self, folder, step):
        self.asked.append(("publish", step))
        (folder / "result.json").write_text(json.dumps({"step": step, "place": self.place.tolist()}))

    def preview(self, path):
        self.asked.append(("preview", int(path.stem.removeprefix("step-"))))

    def close(self):
        self.asked.append(("close", 0))

    def when(self, what):
        """The steps at which the trainer asked for something."""
        return [step for asked, step in self.asked if asked == what]


def settings(steps, **changes):
    return Run(**{"steps": steps, "batch": 4, "log_every": 2, "save_every": 4, "preview_every": 5, **changes})
