"""Which of several processes this is, by what torchrun says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from dmd2cli.errors import UserError


@dataclass(frozen=True)
class Share:
    """Which of `world` processes this is."""

    rank: int = 0
    world: int = 1

    def device(self, name: str) -> str:
        """The device of this process: where there are several GPUs, the one that torchrun means."""
        several = name in ("auto", "cuda") and self.world > 1 and torch.cuda.is_available()
        return f"cuda:{os.environ.get('LOCAL_RANK', self.rank)}" if several else name


def share(environment: Mapping[str, str] = os.environ) -> Share:
    """What torchrun says. Raises UserError if it cannot be."""
    said = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
    if not all(part.isdecimal() for part in said) or int(said[0]) >= int(said[1]):
        raise UserError(f"RANK={said[0]} WORLD_SIZE={said[1]}: a rank is a whole number below the world size")
    return Share(int(said[0]), int(said[1]))
