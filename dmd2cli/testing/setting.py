"""What the checks work with: a few conditions, noisy and clean samples, a small distillation."""

from __future__ import annotations

from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn

from dmd2cli import registry
from dmd2cli.core.denoiser import Denoiser
from dmd2cli.core.noise import diffuse
from dmd2cli.core.random import Rng
from dmd2cli.data.base import Batch
from dmd2cli.engine import build
from dmd2cli.engine.distillation import Distillation
from dmd2cli.protocols import Raw, Teacher
from dmd2cli.recipe import Recipe, Use
from dmd2cli.samplers.ddim import Ddim
from dmd2cli.source import Source

ROWS = 4
"""Samples that every check works with."""
LOW = 0.01
"""sigma / alpha at which a denoiser has next to nothing left to remove."""
NAME = "under-test"
"""What a teacher is called in the recipes of its checks."""


def some(teacher: Teacher) -> list[Raw]:
    """ROWS conditions of a teacher."""
    return Source(teacher, teacher.denoiser, Ddim()).conditions(ROWS)


def noisy(teacher: Teacher) -> tuple[Tensor, Tensor]:
    """(x_t, t) at times from 0.2 to 1."""
    rng, t, like = Rng(0, 0), torch.linspace(0.2, 1, ROWS), torch.empty(ROWS, *teacher.shape)
    return diffuse(rng.normal("x", like), t, teacher.schedule, rng.normal("eps", like)), t


def own_samples(teacher: Teacher) -> Tensor:
    """Clean samples (ROWS, *shape) as the teacher itself draws them."""
    return Source(teacher, teacher.denoiser, Ddim(10)).latents(some(teacher), 0, range(ROWS))


def student_network(teacher: Teacher) -> nn.Module:
    """What a generator starts from."""
    return deepcopy(teacher.network or teacher.denoiser).requires_grad_(True)


def denoiser(network: nn.Module) -> Denoiser:
    """The same network, for type checkers."""
    return cast(Denoiser, network)


def toy() -> Teacher:
    """A small class-conditional teacher that is exact."""
    return registry.load("teachers", "gmm")(layout="pair", classes=2, width=16, pretrain_steps=0)


def recipe(teacher: Teacher, gan: bool = True, use: Use | None = None) -> Recipe:
    """A distillation of a teacher that is registered as `use` says; with the GAN, every kind of term is in it."""
    guidance = 2.0 if teacher.encode([])[0] else 1.0
    terms = {"distribution_matching": {"guidance": guidance}, "denoising": {}}
    real = {"data": {"real": {"use": "none"}}} if gan else {}
    terms |= {"gan_generator": {}, "gan_critic": {}} if gan else {}
    parts = {"student": {"lr": 1e-3}, "critic": {"lr": 1e-3}, "sampler": {"use": "heun"}, "losses": terms}
    return Recipe.model_validate({**parts, **real, "teacher": use or NAME, "run": {"steps": 9, "batch": ROWS}})


def distillation(teacher: Teacher) -> Distillation:
    """A whole distillation of the teacher on the CPU."""
    with registry.override("teachers", NAME, lambda: teacher):
        return build.distillation(recipe(teacher), torch.device("cpu"))


def batch_for(teacher: Teacher) -> Batch:
    """One micro-batch, its real data the teacher's own samples."""
    cond, null = teacher.encode(some(teacher))
    return Batch(slice(0, ROWS), ROWS, cond, null, own_samples(teacher), cond)


def weights(module: nn.Module) -> Tensor:
    """All parameters of a module as one vector."""
    return torch.cat([torch.zeros(0), *(p.detach().flatten().float() for p in module.parameters())])
