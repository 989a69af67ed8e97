"""Training in float16: the loss scale that its gradients need, and the networks that it is refused for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dmd2cli.engine.sharding import local
from dmd2cli.errors import UserError
from dmd2cli.protocols import Teacher
from dmd2cli.recipe_run import Run

START, LARGEST = 2.0**16, 2.0**24
GROWS_AFTER = 2000
"""Good updates, one after the other."""


class LossScale:
    """The factor s of a loss that is differentiated in float16 (Micikevicius et al. 2018, Sec. 3.2).

        g = (d (s L) / d w) / s         s -> s / 2 after a skipped update, 2 s after 2000 good ones, 1 <= s <= 2^24

    float16 has no numbers between 0 and 2^-24: small gradients would become 0. s lifts them by the chain rule, as far
    as the largest ones allow: an infinite gradient skips its update and halves s. s is a power of two, so that neither
    product rounds. bfloat16 has the exponents of float32 and needs none of this.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.tensor(START, device=device)
        """s, 0-dim."""
        self.good = torch.zeros((), device=device)
        """Updates since s last changed."""

    @property
    def falling(self) -> Tensor:
        """1 while a skipped update may be the scale's fault, because it can still fall; else 0."""
        return (self.scale > 1).float()

    @torch.no_grad()
    def unscale_(self, grads: Sequence[Tensor]) -> None:
        """Divide gradients, DTensors too, by s where they are."""
        mine = [local(grad) for grad in grads]
        if mine:
            torch._foreach_mul_(mine, 1 / self.scale)

    @torch.no_grad()
    def update(self, skipped: Tensor) -> None:
        """After an update. skipped: 0/1, as Guard.judge() gives it. Nothing waits for the device."""
        good = torch.where(skipped > 0, 0.0, self.good + 1)
        factor = torch.where(skipped > 0, 0.5, torch.where(good >= GROWS_AFTER, 2.0, 1.0))
        self.scale = (self.scale * factor).clamp(1, LARGEST)
        self.good = torch.where(good >= GROWS_AFTER, 0.0, good)

    def state(self) -> Tensor:
        """What a continued run needs: (s, good updates since it changed)."""
        return torch.stack([self.scale, self.good])

    def load_state(self, state: Tensor) -> None:
        """Continue from what state() gave."""
        self.scale, self.good = state.to(self.scale, copy=True).unbind()


def check_fp16(teacher: Teacher, run: Run) -> None:
    """Raise UserError for float16 with networks of a family that is known to diverge in it."""
    if run.precision == "fp16" and teacher.fp16:
        raise UserError(f"run.precision: fp16: {teacher.fp16}; use bf16")
