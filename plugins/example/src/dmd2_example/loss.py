"""A generator term: total variation, for students whose pictures should be smooth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError
from dmd2cli.protocols import Nets, Sample
from torch import Tensor


@dataclass(frozen=True)
class Smooth:
    """mean sqrt((x[i + 1] - x[i])^2 + eps^2) along the last dimension (Rudin, Osher and Fatemi 1992).

    eps: in model units; differences below it count little, and the gradient at 0 is finite.
    """

    eps: float = 0.01

    player: ClassVar[Literal["generator", "critic"]] = "generator"
    reads_real: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.eps <= 0:
            raise UserError(f"eps must be positive, got {self.eps:g}; leave it out for 0.01")

    def __call__(self, s: Sample, nets: Nets, rng: Rng) -> Tensor:
        """The mean over the micro-batch; draw noise, if you need some, from rng.normal(name, like)."""
        return (s.x.diff(dim=-1).square() + self.eps**2).sqrt().mean()
