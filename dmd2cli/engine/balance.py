"""`weight: auto`: a term's gradient at the sample becomes as large as distribution matching's, as measured."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dmd2cli.errors import UserError

REFERENCE = "distribution_matching"


class Balance:
    """The authors' advice for the GAN weight: equal gradient norms at x. Measured over `updates`, then kept."""

    def __init__(self, name: str, updates: int) -> None:
        self.name, self.updates = name, updates
        self.total: Callable[[Tensor], Tensor] = lambda squares: squares
        """Sums over the ranks of a run."""
        self.norms = torch.zeros(2, dtype=torch.float64)          # sums of |dL_DM / dx| and of |dL_term / dx|
        self.measured = 0

    @property
    def weight(self) -> float:
        """The number: the ratio of the two norms so far."""
        reference, own = self.norms.tolist()
        return reference / own if own else 0.0

    @property
    def done(self) -> bool:
        return self.measured >= self.updates

    def measure(self, x: Tensor, reference: Tensor, own: Tensor) -> None:
        """Take the gradients of both losses at the student's samples x; their graphs are kept."""
        grads = torch.autograd.grad([reference], [x], retain_graph=True)
        grads += torch.autograd.grad([own], [x], retain_graph=True, allow_unused=True)
        if grads[1] is None:
            raise UserError(f"losses.{self.name}: weight auto needs a term of the student's samples; give a number")
        squares = torch.stack([g.detach().double().square().sum() for g in grads]).cpu()
        squares = self.total(squares)
        self.norms += squares.sqrt() if squares.isfinite().all() else 0      # a bad batch is skipped, not remembered

    def state(self) -> Tensor:
        """What a continued run needs: (2 norms, updates measured)."""
        return torch.cat([self.norms, self.norms.new_tensor([self.measured])])

    def load_state(self, state: Tensor) -> None:
        """Continue from what state() gave."""
        self.norms, self.measured = state[:2].clone(), int(state[2])
