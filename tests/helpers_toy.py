"""The toy recipe as live objects, and the schedules that every property is checked on."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from dmd2_plugins.toy.metrics import Coverage, mode_counts, sliced_wasserstein
from dmd2_plugins.toy.mixture import mixture

from dmd2cli import recipe
from dmd2cli.core.noise import Discrete, Karras, RectifiedFlow
from dmd2cli.data.base import Batch
from dmd2cli.engine import build
from dmd2cli.engine.distillation import Distillation

CPU = torch.device("cpu")
SCHEDULES = {
    "edm": Karras(),
    "edm10": Karras(sigma_max=10.0),
    "ddpm": Discrete.linear(),
    "sd": Discrete.scaled_linear(),
    "flow": RectifiedFlow(),
    "flow-shift3": RectifiedFlow(3.0),
}
GAN = (
    "losses.gan_generator.weight=0.01",
    "losses.gan_critic.weight=0.01",
    "data.real={use: gmm, layout: grid25}",
)
SMALL = ("run.batch=16", "teacher.width=16", "teacher.pretrain_steps=0", *GAN)


@dataclass
class Toy:
    """A distillation of the toy recipe and the batches it trains on."""

    distillation: Distillation
    loader: build.Loader

    def batches(self, step: int) -> list[Batch]:
        return self.loader(step, self.distillation.teacher)

    def step(self, step: int) -> dict[str, torch.Tensor]:
        return self.distillation.step(self.batches(step), step)


def toy(*overrides: str) -> Toy:
    """recipes/toy-grid25.yaml with overrides, built by the engine."""
    found = recipe.load("toy-grid25", list(overrides))
    return Toy(build.distillation(found, CPU), build.loader(found.data, found.run, CPU))


@dataclass(frozen=True)
class Outcome:
    """What a trained raw generator covers, how far it is from the mixture, what its training cost."""

    coverage: Coverage
    distance: float
    cpu_seconds: float


def train(*overrides: str, layout: str = "grid25") -> Outcome:
    """Train the toy recipe on one thread; judge its raw generator on 5,000 samples of an unseen seed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run, steps = toy(f"teacher.layout={layout}", *overrides), recipe.load("toy-grid25", list(overrides)).run.steps
        start = time.process_time()
        for step in range(steps):
            run.step(step)
        cost = time.process_time() - start
    finally:
        torch.set_num_threads(threads)
    return judge(run.distillation, layout, cost)


@torch.no_grad()
def judge(d: Distillation, layout: str, cost: float, n: int = 5000) -> Outcome:
    generator, found = torch.Generator().manual_seed(2024), mixture(layout)
    noise = d.nets.schedule.prior_std * torch.randn(n, 2, generator=generator)
    samples = d.generator.module(noise, torch.ones(n), {})
    real, _ = found.draw(n, generator)
    return Outcome(mode_counts(samples, found), sliced_wasserstein(samples, real), cost)
