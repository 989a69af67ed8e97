"""THE STEP: DMD2's two players on two time scales (arXiv 2405.14867). Everything else serves this file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmd2cli.core.denoiser import bind
from dmd2cli.core.random import Rng
from dmd2cli.data.base import Batch
from dmd2cli.engine.player import Player
from dmd2cli.protocols import Loss, Nets, Sample, Teacher
from dmd2cli.samplers.few_step import few_step


@dataclass
class Distillation:
    """How a loss is run is Player's business, not ours."""

    teacher: Teacher
    nets: Nets
    generator: Player
    critic: Player
    terms: Mapping[str, tuple[float, Loss]]
    """Name -> (recipe weight, term), of both players."""
    times: tuple[float, ...]
    ttur: int
    seed: int

    def student(self, batch: Batch, rng: Rng, grad: bool) -> Sample:
        """One student sample. Its input is simulated, never noised data ([DMD2] Sec. 4.5)."""
        generate, rng = bind(self.nets.generator, batch.cond), rng.at(batch.rows, batch.total).stream("student")
        k = rng.index("k", len(self.times))                                # the same on every rank
        empty = next(self.generator.module.parameters()).new_empty(len(batch), *self.teacher.shape)
        with torch.no_grad():
            x_t, t = few_step(generate, self.nets.schedule, rng.normal("noise", empty), self.times, rng, stop=k)
        with torch.set_grad_enabled(grad):
            x = generate(x_t, t)
        return Sample(x, batch.rows, batch.total, batch.cond, batch.null, batch.x, batch.real_cond)

    def losses(self, player: str, s: Sample, rng: Rng) -> dict[str, Tensor]:
        """The weighted terms of one player on one micro-batch, each with streams of its own."""
        rng = rng.at(s.rows, s.total)
        mine = {name: term for name, term in self.terms.items() if term[1].player == player}
        return {name: weight * loss(s, self.nets, rng.stream(name)) for name, (weight, loss) in mine.items()}

    def step(self, batches: Sequence[Batch], step: int) -> dict[str, Tensor]:
        """One critic update; every ttur-th step a generator update first ([DMD2] Sec. 4.2).

        The samples of a step are made once, before the generator moves, and the critic trains on those.
        """
        rng, log, made = Rng(self.seed, step), dict[str, Tensor](), list[Sample]()

        def generator_losses(batch: Batch) -> dict[str, Tensor]:           # a graph lives for one micro-batch only
            s = self.student(batch, rng, grad=True)
            made.append(s.detached())
            return self.losses("generator", s, rng)

        if step % self.ttur == 0:
            found = self.generator.update(generator_losses, batches, step, frozen=[self.critic])
            log |= {f"generator/{name}": value for name, value in found.items()}
        else:
            made = [self.student(batch, rng, grad=False) for batch in batches]
        found = self.critic.update(lambda s: self.losses("critic", s, rng), made, step)
        return log | {f"critic/{name}": value for name, value in found.items()}
