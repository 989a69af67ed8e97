"""One whole DMD2 cycle of the real ImageNet-64 network, one image at a time: 3 x 296 million weights on a CPU."""

from __future__ import annotations

import resource
import sys

import pytest
import torch
from dmd2_plugins.edm.network import network
from dmd2_plugins.edm.presets import find
from dmd2_plugins.edm.teacher import wrap

from dmd2cli import registry
from dmd2cli.core.random import Rng
from dmd2cli.engine.distill import job
from dmd2cli.protocols import Example
from dmd2cli.recipe import Recipe

LIMIT_GIB = 20
RELEASED = {
    "teacher": "imagenet64-at-random",
    "student": {"lr": 2e-6},
    "critic": {"lr": 2e-6},
    "ttur": 5,
    "bins": 1000,
    "losses": {
        "distribution_matching": {"t_min": 0.02, "t_max": 0.98},
        "gan_generator": {"weight": 3e-3},
        "denoising": {},
        "gan_critic": {"weight": 1e-2},
    },
    "data": {"real": "noise", "prompts": {"use": "class-labels", "classes": 1000}},
    "sampler": {"use": "heun", "steps": 256},
    "run": {"steps": 5, "batch": 1, "precision": "fp32"},
}


class Noise:
    """One image of noise, of class 7."""

    def __len__(self):
        return 1

    def __getitem__(self, i):
        return Example(Rng(0, 0).normal("x", torch.empty(1, 3, 64, 64))[0], 7)


def at_random():
    config = find("imagenet64").config
    return wrap(network(config), config, {"family": "edm", "config": config.json})


def sums(module):
    return [float(p.detach().double().sum()) for p in module.parameters()]


@pytest.mark.slow
def test_a_cycle_of_imagenet_64_fits_and_moves_who_should_move():
    teacher, data = ("teachers", "imagenet64-at-random", at_random), ("datasets", "noise", Noise)
    with registry.override(*teacher), registry.override(*data):
        work = job(Recipe.model_validate(RELEASED), torch.device("cpu"))
    d = work.distillation
    networks = (d.nets.real, d.nets.generator, d.nets.fake, d.nets.head)
    before = [sums(network) for network in networks]
    for step in range(5):
        log = work.step(step)
        assert all(value.isfinite() for value in log.values()), log
        assert ("generator/gradient_norm" in log) == (step == 0)
    moved = [sums(network) != old for network, old in zip(networks, before, strict=True)]
    assert moved == [False, True, True, True]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    assert peak < LIMIT_GIB * 2**30
