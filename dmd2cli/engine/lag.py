"""How far the critic is behind the student: what a few more updates on a student that stands still would gain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dmd2cli.core.random import Rng
from dmd2cli.data.base import Batch
from dmd2cli.engine.distillation import Distillation
from dmd2cli.losses.denoising import Denoising

UPDATES = 5
"""Extra updates of the critic, undone afterwards."""


def critic_lag(d: Distillation, batches: Sequence[Batch], step: int) -> Tensor:
    """Share by which the denoising loss on fresh samples falls when the critic trains on.

    0 is a critic that keeps up; 0.1 says that a tenth of its loss is lag. Nothing of the training changes: it
    costs UPDATES critic updates, UPDATES + 1 student samples and two denoising passes, on streams of its own.
    """
    rng = Rng(d.seed, step).stream("lag")
    fresh = [d.student(batch, rng.stream("fresh"), grad=False) for batch in batches]
    if d.later:                                            # the critic of one call learns from that call alone
        d = replace(d, inputs=replace(d.inputs, only=fresh[0].call))
    critic = d.critics[fresh[0].call if d.later else 0]
    nets = d.nets_for(fresh[0].call)

    @torch.no_grad()
    def loss() -> Tensor:
        seen = [Denoising()(s, nets, rng.stream("held").at(s.rows, s.total)) * len(s) for s in fresh]
        return critic.world.total(torch.stack(seen).sum()) / fresh[0].total

    before = loss()
    with critic.borrowed():
        for i in range(UPDATES):
            more = rng.stream(str(i))
            made = [d.student(batch, more, grad=False) for batch in batches]
            critic.update(lambda s: d.losses("critic", s, more), made, step)  # noqa: B023
        return 1 - loss() / before
