"""A step of a recipe rehearsed on fake tensors: what each phase of it has alive, at any micro-batch.

Every operation of a step has a result whose size is linear in the micro-batch. So two rehearsals, at two sizes, give
the bytes alive after each operation as a line, and the peak at any micro-batch is the largest of these lines there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from dmd2cli.core.denoiser import Cond
from dmd2cli.core.random import Rng
from dmd2cli.data.base import Batch, PairBatch
from dmd2cli.engine import build
from dmd2cli.engine.cut import Cut, through
from dmd2cli.engine.distillation import Distillation
from dmd2cli.engine.networks import Networks
from dmd2cli.engine.plan.curve import Curve, curve
from dmd2cli.engine.plan.networks import size, stand_in
from dmd2cli.engine.plan.precision import as_on
from dmd2cli.engine.plan.tape import Tape
from dmd2cli.engine.plan.terms import networks_of
from dmd2cli.engine.player import Player, without_gradient
from dmd2cli.engine.terms import needs_data
from dmd2cli.errors import UserError
from dmd2cli.protocols import Loss, Sample
from dmd2cli.recipe import Recipe
from dmd2cli.recipe_build import build as plugin

UNKNOWN = (UserError, DataDependentOutputException, DynamicOutputShapeException)
"""What a term raises that cannot be rehearsed: its own files are missing, or what it does depends on values."""

PRIMES = (1009, 1013)
"""So large that no length of a network is a multiple of one."""


class Blank(Rng):
    """Streams of tensors that hold nothing. Their memory is that of the global batch, as a view of which Rng draws;
    a rehearsal has more rows than that, and gets one of them again and again. Of several choices, the first.
    """

    def at(self, rows: slice, total: int) -> Rng:
        return Blank(self.seed, self.step, rows, total)

    def stream(self, name: str) -> Rng:
        return self

    def sibling(self, name: str) -> Rng:
        return self

    def normal(self, name: str, like: Tensor) -> Tensor:
        return like.new_empty((self.total, *like.shape[1:]), dtype=torch.float32)[:1].expand_as(like)

    def uniform(self, name: str, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * like.new_empty((self.total,), dtype=torch.float32)[:1].expand(len(like))

    def index(self, name: str, n: int) -> int:
        return 0


def blank(batch: Batch | Sample) -> Blank:
    """The streams of a batch."""
    return Blank(0, 0, batch.rows, batch.total)


@dataclass(frozen=True)
class Rehearsed:
    """A stage: its phases, what one sample of its data takes, and the terms that are not in its numbers."""

    sample: Curve
    generator: Curve
    critic: Curve
    row_bytes: int
    """Of one sample of a step's batch, over all of its micro-batches at once: data, conditions, the student's."""
    left_out: Mapping[str, str]
    """Loss term -> why it could not be rehearsed."""
    extra: Mapping[str, int]
    """Network that a loss term brings along -> bytes of its weights."""


class Rehearsal:
    """The step of one stage on fake networks."""

    def __init__(self, recipe: Recipe, players: Networks, mode: FakeTensorMode, kind: str) -> None:
        """players: made fake() under the mode. kind: of the device that is planned for, cuda or cpu."""
        self.recipe, self.mode, self.kind, self.left_out = recipe, mode, kind, dict[str, str]()
        with mode:
            self.d = distillation(recipe, players)

    def rehearsed(self) -> Rehearsed:
        """All phases."""
        batch = self.batch()
        with networks_of((loss for _, loss in self.d.terms.values()), self.mode) as found:
            tapes = (self.sample(batch), self.generator(batch), self.critic(batch))
        sample, generator, critic = (curve(tape, len(batch)) for tape in tapes)
        extra = {name: size(module) for name, module in found.items()}
        return Rehearsed(sample, generator, critic, row_bytes(batch), self.left_out, extra)

    @property
    def prime(self) -> int:
        """A number that divides the micro-batch of the rehearsal, and nothing else."""
        return next(p for p in PRIMES if self.recipe.run.batch % p)

    @property
    def rows(self) -> int:
        """The micro-batch of the rehearsal: among as many, pairs can be shared out."""
        pairs, batch = self.recipe.data.pairs, self.recipe.run.batch
        unit = batch // math.gcd(batch, build.pairs_per_update(pairs, self.recipe.run)) if pairs else 1
        return unit * self.prime

    def batch(self) -> Batch:
        """A micro-batch as the loader gives it, empty."""
        recipe, teacher, rows = self.recipe, self.d.teacher, self.rows
        raw = [(list(teacher.conditions) or [None])[0]] * rows
        cond, null = (self.repeated(encoded, rows) for encoded in teacher.encode(raw[:1]))
        x = self.empty(rows) if recipe.data.real is not None else None
        total = recipe.run.batch
        return Batch(slice(0, rows), total, cond, null, x, cond if x is not None else {}, raw, self.pair(rows, cond))

    def pair(self, rows: int, cond: Cond) -> PairBatch | None:
        """The pairs of a micro-batch."""
        pairs, run = self.recipe.data.pairs, self.recipe.run
        if pairs is None:
            return None
        n = build.pairs_per_update(pairs, run) * rows // run.batch
        with self.mode:
            where = torch.arange(n) if pairs.matched else None
        return PairBatch(self.empty(n), self.empty(n), self.repeated(cond, n), where)

    def repeated(self, cond: Cond, rows: int) -> dict[str, Tensor]:
        """A condition of so many rows, empty."""
        return {k: stand_in(v.new_empty((rows, *v.shape[1:]), device="meta"), self.mode) for k, v in cond.items()}

    def empty(self, rows: int) -> Tensor:
        """Samples that hold nothing."""
        return stand_in(torch.empty(rows, *self.d.teacher.shape, device="meta"), self.mode)

    def sample(self, batch: Batch) -> Tape:
        """The student called once, without gradient: what the steps do at which the generator rests."""
        return self.taped(lambda tape: self.d.student(batch, blank(batch), grad=False))

    def generator(self, batch: Batch) -> Tape:
        """The first micro-batch of a generator update, up to the optimiser."""

        def action(tape: Tape) -> None:
            with without_gradient(self.d.critics):
                tape.watch(self.d.generator.parameters)
                cut = Cut(self.d.nets_for)
                cut.backward(self.loss("generator", cut(self.d.student(batch, blank(batch), grad=True))))

        return self.taped(action)

    def critic(self, batch: Batch) -> Tape:
        """The same of a critic update; of nothing in a stage whose critic rests."""
        if not self.d.judged:
            return self.taped(lambda tape: torch.zeros(1))
        d, b = self.d, self.d.inputs.conditioned(batch, blank(batch), torch.device("cpu"))
        made = Sample(self.empty(len(b)), b.rows, b.total, b.cond, b.null, b.x, b.real_cond, b.raw)

        def action(tape: Tape) -> None:
            tape.watch(d.critic.parameters)
            through(d.nets.fake)(self.loss("critic", made))

        return self.taped(action)

    def loss(self, player: str, s: Sample) -> Tensor:
        """The sum of a player's terms, without those that cannot be rehearsed."""
        rng, found = blank(s), list[Tensor]()
        for name, (weight, loss) in self.d.terms.items():
            if loss.player == player and name not in self.left_out:
                try:
                    found.append(cast(float, weight) * loss(s, self.d.nets, rng))
                except UNKNOWN as err:
                    self.left_out[name] = str(err).partition("\n")[0] or type(err).__name__
        if not found:
            raise UserError(f"no term of the {player} can be planned: {'; '.join(self.left_out.values())}")
        return torch.stack(found).sum() * (len(s) / s.total)

    def taped(self, action: Callable[[Tape], Any]) -> Tape:
        """Run it; gradients are dropped afterwards."""
        tape = Tape(self.prime)
        with self.mode, as_on(self.kind), tape:
            action(tape)
        tape.close()
        for player in (self.d.generator, self.d.critic):
            for p in player.parameters:
                p.grad = None
        return tape


def distillation(recipe: Recipe, players: Networks) -> Distillation:
    """As build.distillation(), without the checks of terms, which compute; automatic weights are 1."""
    source, generator, critics = players.teacher, players.generator, players.critics
    nets, run = players.nets(recipe), recipe.run
    student, critic, *later = (Player(m, recipe.critic, run.steps, None) for m in (generator, *critics))
    losses: dict[str, Loss] = {name: plugin("losses", term, f"losses.{name}") for name, term in recipe.losses.items()}
    needs_data(recipe, losses)
    weights = {name: 1.0 if term.weight == "auto" else term.weight for name, term in recipe.losses.items()}
    terms = {name: (weights[name], loss) for name, loss in losses.items()}
    called, turns = build.inputs(recipe.student, source), build.turns(recipe)
    return Distillation(source, nets, student, critic, terms, called, turns, run.seed, later)


def row_bytes(batch: Batch) -> int:
    """Of one row: data, conditions, pairs, and the student's sample, which waits for the critic."""
    held = [*batch.cond.values(), *batch.null.values(), *batch.real_cond.values()]
    held += [batch.x, batch.x] if batch.x is not None else []
    if batch.pair is not None:
        held += [batch.pair.x, batch.pair.noise, *batch.pair.cond.values()]
    return sum(t.nbytes for t in held) // len(batch)
