"""THE STEP: DMD2's two players on two time scales (arXiv 2405.14867). Everything else serves this file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dmd2cli.core.denoiser import bind
from dmd2cli.core.random import Rng
from dmd2cli.data.base import Batch, PairBatch
from dmd2cli.engine.balance import REFERENCE, Balance
from dmd2cli.engine.cut import Cut, through
from dmd2cli.engine.inputs import Inputs
from dmd2cli.engine.player import Player
from dmd2cli.engine.turns import Turns
from dmd2cli.engine.watch import at
from dmd2cli.protocols import Loss, Nets, Pair, Sample, Teacher

Terms = Mapping[str, tuple[float | Balance, Loss]]
"""Name -> (recipe weight, term), of both players."""


@dataclass
class Distillation:
    """How a loss is run is Player's business, not ours."""

    teacher: Teacher
    nets: Nets
    generator: Player
    critic: Player
    terms: Terms
    inputs: Inputs
    turns: Turns
    seed: int
    later: Sequence[Player] = ()
    """Critics of the student's later calls, if each call has its own; `critic` and `nets` are then the first call's."""

    def student(self, batch: Batch, rng: Rng, grad: bool) -> Sample:
        """One student sample. Its input is simulated, never noised data ([DMD2] Sec. 4.5)."""
        rng, device = rng.at(batch.rows, batch.total).stream("student"), self.generator.device
        batch = self.inputs.conditioned(batch, rng, device)
        generate, pair = bind(self.nets.generator, batch.cond), None
        with torch.no_grad():
            call = self.inputs.call(rng)
            x_t, t = self.inputs.draw(generate, batch, call, rng, device)
        with torch.set_grad_enabled(grad):
            x = generate(x_t, t)
        if grad and batch.pair is not None:
            pair = self.paired(batch.pair, x)
        rest = (batch.rows, batch.total, batch.cond, batch.null, batch.x, batch.real_cond, batch.raw)
        return Sample(x, *rest, pair=pair, call=call)

    def paired(self, pair: PairBatch, x: Tensor) -> Pair:
        """What the student makes of the noise of some pairs ([DMD] Eq. 9): among its samples x already, or apart."""
        if pair.where is not None:
            return Pair(pair.x, x[pair.where])
        return Pair(pair.x, self.nets.generator(*self.inputs.first(pair.noise), pair.cond))

    def losses(self, player: str, s: Sample, rng: Rng) -> dict[str, Tensor]:
        """The weighted terms of one player on one micro-batch, each with streams of its own."""
        rng = rng.at(s.rows, s.total)
        mine = {name: term for name, term in self.terms.items() if term[1].player == player}
        nets = self.nets_for(s.call)
        found = {name: loss(s, nets, rng.stream(name)) for name, (_, loss) in mine.items()}
        return {name: self.weight(name, s, found) * value for name, value in found.items()}

    def weight(self, name: str, s: Sample, found: Mapping[str, Tensor]) -> float:
        """The recipe's weight of a term, or the one that is being measured."""
        weight = self.terms[name][0]
        if not isinstance(weight, Balance):
            return weight
        if not weight.done:
            weight.measure(s.x, self.weight(REFERENCE, s, found) * found[REFERENCE], found[name])
        return weight.weight

    @property
    def judged(self) -> bool:
        """Whether the critic learns: not while the generator warms up on pairs alone."""
        return any(loss.player == "critic" for _, loss in self.terms.values())

    @property
    def critics(self) -> list[Player]:
        """All of them: one, or one for each call of the student."""
        return [self.critic, *self.later]

    def nets_for(self, call: int) -> Nets:
        """The networks, with the critic that judges a call."""
        if call == 0 or not self.later:
            return self.nets
        found: Any = self.later[call - 1].module
        return replace(self.nets, fake=found["fake"], head=found["head"])

    def step(self, batches: Sequence[Batch], step: int) -> dict[str, Tensor]:
        """[DMD] Alg. 1: one critic update; every ttur-th step a generator update first ([DMD2] Sec. 4.2).

        The samples of a step are made once, before the generator moves, and the critic trains on those.
        """
        rng, log, made = Rng(self.seed, step), dict[str, Tensor](), list[Sample]()
        cut = Cut(self.nets_for)

        def generator_losses(batch: Batch) -> dict[str, Tensor]:           # a graph lives for one micro-batch only
            s = cut(self.student(batch, rng, grad=True))
            made.append(s.detached())
            return self.losses("generator", s, rng)

        at("generator")
        if self.turns.generator(step):
            found = self.generator.update(generator_losses, batches, step, self.critics, cut.backward)
            log |= {f"generator/{name}": value for name, value in {**found, **self.balanced()}.items()}
        else:
            made = [self.student(batch, rng, grad=False) for batch in batches]
        at("critic")
        if self.judged and self.turns.critic(step):
            critic = self.critics[made[0].call if self.later else 0]
            fake = self.nets_for(made[0].call).fake
            found = critic.update(lambda s: self.losses("critic", s, rng), made, step, backward=through(fake))
            log |= {f"critic/{name}": value for name, value in found.items()}
        return log

    def balanced(self) -> dict[str, Tensor]:
        """The automatic weights after a generator update."""
        found = {name: weight for name, (weight, _) in self.terms.items() if isinstance(weight, Balance)}
        for weight in found.values():
            weight.measured += not weight.done
        return {f"weight/{name}": torch.tensor(weight.weight) for name, weight in found.items()}
