"""A small network made of blocks, prepared for training in one way or another."""

from __future__ import annotations

from copy import deepcopy

import torch
from dmd2_plugins.edm.teacher import teacher

from dmd2cli.engine import runtime
from dmd2cli.recipe import Run

CPU = torch.device("cpu")
X, T = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0.4, 0.8])
COND = {"label": torch.eye(10)[:2]}


def run(**options):
    return Run(steps=9, batch=2, **options)


def moved():
    """A tiny teacher away from its start, so that every layer has a gradient."""
    found, rng = teacher("tiny-adm"), torch.Generator().manual_seed(1)
    for p in found.denoiser.parameters():
        p.add_(0.03 * torch.randn(p.shape, generator=rng))
    return found


def trainable(source, **options):
    copy = deepcopy(source.denoiser).train().requires_grad_(True)
    return runtime.prepare(copy, CPU, run(**options), source.units)


def gradients(module):
    return torch.cat([p.grad.flatten() for p in module.parameters()])
