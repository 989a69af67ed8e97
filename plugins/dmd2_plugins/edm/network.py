"""From a configuration to a denoiser: the network inside EDM's preconditioning."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from dmd2_plugins.edm.adm import ADM
from dmd2_plugins.edm.block import Block
from dmd2_plugins.edm.config import ADM as ADM_TYPE
from dmd2_plugins.edm.config import SIGMA_DATA, Config
from dmd2_plugins.edm.song import Song
from dmd2cli.core.denoiser import Preconditioned
from dmd2cli.core.noise import Karras
from dmd2cli.core.parametrization import edm

UNITS = (Block,)
"""What is checkpointed and compiled as one."""


def c_noise(t: Tensor, schedule: Karras) -> Tensor:
    """EDM's private clock, log(sigma) / 4 (Karras et al. 2022, Table 1)."""
    return schedule(t)[1].log() / 4


def network(config: Config, seed: int = 0, guided: bool = False) -> Preconditioned:
    """An untrained denoiser, initialised as published from the seed; guided: one that reads the guidance scale.

    Its state dict has the published names, with `backbone.` where those have `model.`. Under torch.device("meta")
    it has no weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = (ADM if config.model_type == ADM_TYPE else Song)(config, guided)
    schedule = Karras()
    backbone = backbone.to(memory_format=torch.channels_last)
    return Preconditioned(backbone, schedule, edm(SIGMA_DATA), partial(c_noise, schedule=schedule))


def unfilled(config: Config) -> Preconditioned:
    """The same with whatever is in its memory, for weights that are loaded next."""
    device = torch.get_default_device()
    with torch.device("meta"):
        made = network(config)
    return made.to_empty(device=device)
