"""How far the critic is behind the student: what a few more updates on a student that stands still would gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from dmd2cli.core.random import Rng
from dmd2cli.data.base import Batch
from dmd2cli.engine.distillation import Distillation
from dmd2cli.engine.player import Player
from dmd2cli.engine.sharding import local
from dmd2cli.losses.denoising import Denoising

UPDATES = 5
"""Extra updates of the critic, undone afterwards."""
FURTHER = (1, 4, 16)
"""How far along these updates its loss is looked for: at a low rate the updates alone would gain little."""


def critic_lag(d: Distillation, batches: Sequence[Batch], step: int) -> Tensor:
    """Share by which the denoising loss on fresh samples falls when the critic trains on, the lowest of FURTHER.

    0 is a critic that keeps up; 0.1 says that a tenth of its loss is lag. Nothing of the training changes: it costs
    UPDATES critic updates, UPDATES + 1 student samples and four denoising passes, on streams of its own.
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
    with critic.borrowed() as held:
        for i in range(UPDATES):
            more = rng.stream(str(i))
            made = [d.student(batch, more, grad=False) for batch in batches]
            critic.update(lambda s: d.losses("critic", s, more), made, step)  # noqa: B023
        after = [loss()]
        for near, far in pairwise(FURTHER):
            go_on(critic, held["model"], far / near)
            after.append(loss())
        return 1 - torch.stack(after).amin() / before


@torch.no_grad()
def go_on(player: Player, start: Mapping[str, Tensor], factor: float) -> None:
    """Move the weights of a player to `factor` times as far from where they started."""
    for name, p in player.named.items():
        here = local(p)
        there = local(start[name]).to(here.device)
        here.sub_(there).mul_(factor).add_(there)
