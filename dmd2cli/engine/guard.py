"""Updates that are not finite are skipped and counted; three in a row end the run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LIMIT = 3
"""Skipped updates in a row that end a run."""


class Guard:
    """Judges the updates of one player. Nothing but found() makes the host wait for the device.

    After LIMIT skips in a row every further update is skipped too, until found() has told of them: wherever the host
    looks seldom, the weights are still those that the row began with.
    """

    def __init__(self, device: torch.device, agree: Callable[[Tensor], Tensor] = lambda flag: flag) -> None:
        """agree: makes a 0/1 flag the same on all ranks, 1 where it is 1 on one of them."""
        self.agree = agree
        zeros = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(5))
        self.skipped, self.row, self.longest, self.start, self.first = zeros
        """Skips in total; in a row now; in the longest row since found(); the steps at which these two rows began."""

    @torch.no_grad()
    def judge(self, norm: Tensor, objective: Tensor, step: int, forgiven: Tensor | None = None) -> Tensor:
        """1 if an update is to be skipped, else 0: 0-dim float32, on the device.

        norm, objective: 0-dim, of the gradient and of the loss; either is enough. forgiven: 0/1, 1 = a skip that is no
        part of a row, because the loss scale is still falling.
        """
        bad = ~(norm.isfinite() & objective.isfinite())
        skip = (self.agree(bad.float()) > 0) | (self.longest >= LIMIT)
        counts = skip if forgiven is None else skip & (forgiven <= 0)
        self.start = torch.where((self.row == 0) & counts, step, self.start)
        self.row = torch.where(skip, self.row + counts, 0)
        self.first = torch.where(self.row > self.longest, self.start, self.first)
        self.longest = torch.maximum(self.longest, self.row)
        self.skipped = self.skipped + skip
        return skip.float()

    def found(self) -> tuple[int, int, int]:
        """(skips in total, longest row since the last look, the step at which it began). One copy to the host.

        A row that goes on is counted from its beginning at the next look as well.
        """
        skipped, longest, first = torch.stack([self.skipped, self.longest, self.first]).tolist()
        self.longest = torch.zeros_like(self.longest)
        return skipped, longest, first

    def state(self) -> Tensor:
        """What a continued run needs: skips in total, 0-dim int64."""
        return self.skipped

    def load_state(self, state: Tensor) -> None:
        """Continue from what state() gave."""
        self.skipped = state.to(self.skipped, copy=True)
