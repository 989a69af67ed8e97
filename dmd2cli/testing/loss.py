"""check_loss: what the step takes for granted of a term."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from dmd2cli.core.random import Rng
from dmd2cli.engine.distillation import Distillation
from dmd2cli.engine.player import Player, without_gradient
from dmd2cli.protocols import Loss, Pair, Sample, Teacher
from dmd2cli.testing.said import every, say
from dmd2cli.testing.setting import ROWS, batch_for, distillation, some, toy, weights


def check_loss(loss: Loss, teacher: Teacher | None = None) -> None:
    """A term is a finite mean over its micro-batch, a function of its rng alone, and teaches its own player.

    A term with `pairwise = True` compares samples of one condition: it gets such, and need not be a mean over rows.
    """
    every(CHECKS, Trial(loss, teacher))


class Trial:
    """A term, and one micro-batch of a distillation in which it can be called."""

    def __init__(self, loss: Loss, teacher: Teacher | None = None) -> None:
        self.loss, self.given = loss, teacher

    @cached_property
    def d(self) -> Distillation:
        """A distillation whose critic differs from the teacher: where they agree there is nothing to learn."""
        d = distillation(self.teacher)
        with torch.no_grad():
            for p in d.critic.parameters:
                p.mul_(1.1)
        return d

    @cached_property
    def teacher(self) -> Teacher:
        return self.given or toy()

    @property
    def pairwise(self) -> bool:
        return getattr(self.loss, "pairwise", False)

    @property
    def mine(self) -> Player:
        """Whom the term teaches."""
        return {"generator": self.d.generator, "critic": self.d.critic}[self.loss.player]

    @property
    def others(self) -> list[Player]:
        return [player for player in (self.d.generator, self.d.critic) if player is not self.mine]

    @cached_property
    def rng(self) -> Rng:
        return Rng(0, 1).at(slice(0, ROWS), ROWS)

    def sample(self) -> Sample:
        """A micro-batch as the step hands it to the term."""
        raw = some(self.teacher)[:1] * ROWS if self.pairwise else some(self.teacher)
        cond, null = self.teacher.encode(raw)
        batch = replace(batch_for(self.teacher), cond=cond, null=null, real_cond=cond, raw=raw)
        s = self.d.student(batch, Rng(0, 0), grad=self.loss.player == "generator")
        pair = Pair(torch.zeros_like(s.x), s.x) if getattr(self.loss, "reads_pairs", False) else None
        return replace(s, real=s.real if self.loss.reads_real else None, pair=pair)

    def value(self, s: Sample | None = None) -> Tensor:
        return self.loss(s or self.sample(), self.d.nets, self.rng)


def declaration(trial: Trial) -> None:
    """It is a frozen dataclass, and says whose objective it belongs to and whether it reads real data."""
    kind = "a loss must be a frozen dataclass whose fields are its options"
    say(is_dataclass(trial.loss) and trial.loss.__dataclass_params__.frozen, kind)
    player = getattr(trial.loss, "player", None)
    say(player in ("generator", "critic"), f"player must be 'generator' or 'critic', not {player!r}")
    reads = getattr(trial.loss, "reads_real", None)
    say(isinstance(reads, bool), f"reads_real must say whether the term needs real data: True or False, not {reads!r}")


def value(trial: Trial) -> None:
    """It is one finite number."""
    found = trial.value()
    say(isinstance(found, Tensor) and found.shape == (), f"a loss must be one finite number, not {found}")
    say(found.isfinite(), f"a loss must be one finite number, not {found}")


def draws(trial: Trial) -> None:
    """It draws from its rng alone: the same streams give the same value."""
    torch.manual_seed(0)
    found = trial.value()
    torch.manual_seed(1)
    say(trial.value().equal(found), "a loss must draw from its rng alone: the same rng gave another value")


def gradient(trial: Trial) -> None:
    """Its gradient reaches the player whose term it is."""
    player, found = trial.loss.player, trial.value()
    say(found.requires_grad, f"a loss without gradient teaches the {player} nothing; is it under no_grad()?")
    grads = torch.autograd.grad(found, trial.mine.parameters, allow_unused=True)
    say(any(g is not None and g.any() for g in grads), f"the gradient does not reach the {player}")
    finite = all(g.isfinite().all() for g in grads if g is not None)
    say(finite, "its gradient is not finite; look at sqrt and division at 0, and add a small number there")


def isolation(trial: Trial) -> None:
    """It moves no network and changes no sample itself, and nobody but its player gets a gradient."""
    s, nets = trial.sample(), trial.d.nets
    held = {"teacher": nets.real, "fake score": nets.fake, "head": nets.head, "generator": nets.generator}
    before, x = {name: weights(module(net)) for name, net in held.items()}, s.x.detach().clone()
    with closed(trial.others):
        trial.value(s).backward()  # type: ignore[no-untyped-call]
        open_ = [p for player in trial.others for p in player.parameters if p.grad is not None]
    for name, was in before.items():
        say(weights(module(held[name])).equal(was), f"the term changes the weights of the {name}; only a step may")
    say(s.x.equal(x), "the term changes the samples it is given; work on a copy")
    other = "critic" if trial.loss.player == "generator" else "generator"
    say(not open_, f"a {trial.loss.player} term gives the {other} a gradient; leave requires_grad as it is")


def mean(trial: Trial) -> None:
    """It is a mean over the rows of its micro-batch, unless it compares samples (pairwise)."""
    if trial.pairwise:
        return
    seen, nets = trial.sample(), trial.d.nets
    halves = [slice(0, ROWS // 2), slice(ROWS // 2, ROWS)]
    parts = [trial.loss(rows_of(seen, rows), nets, trial.rng.at(rows, seen.total)) for rows in halves]
    near = torch.allclose(torch.stack(parts).mean(), trial.value(seen), rtol=1e-3, atol=1e-6)
    say(near, "a loss must be a mean over its micro-batch: the mean of two halves is not that of the whole")


CHECKS = (declaration, value, draws, gradient, isolation, mean)


@contextmanager
def closed(players: list[Player]) -> Iterator[None]:
    """Players that must collect no gradient inside; afterwards nobody has one."""
    with without_gradient(players):
        yield
    for player in players:
        player.optimiser.zero_grad(set_to_none=True)


def module(net: object) -> nn.Module:
    """A network of nets, as the module that it is."""
    assert isinstance(net, nn.Module), "networks of a distillation are modules"
    return net


def rows_of(s: Sample, rows: slice) -> Sample:
    """Some rows of a micro-batch, as a micro-batch of their own."""
    cond, null, real_cond = ({k: v[rows] for k, v in cond.items()} for cond in (s.cond, s.null, s.real_cond))
    real, raw = None if s.real is None else s.real[rows], s.raw[rows]
    pair = None if s.pair is None else Pair(s.pair.target[rows], s.pair.x[rows].detach())
    return Sample(s.x[rows].detach(), rows, s.total, cond, null, real, real_cond, raw, pair)
