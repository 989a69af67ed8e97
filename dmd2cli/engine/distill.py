"""A distillation as a job of the trainer: fed by its loader, published as a student."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmd2cli.data.base import Batch, Loader
from dmd2cli.engine import build, initial, preview
from dmd2cli.engine.balance import Balance
from dmd2cli.engine.distillation import Distillation
from dmd2cli.engine.health.checkup import Checkup, checkup
from dmd2cli.engine.health.validation import Validator
from dmd2cli.engine.lag import critic_lag
from dmd2cli.engine.parallel import ALONE, World, seed_networks
from dmd2cli.engine.phases import Phase, as_dict, matching_guidance, phases
from dmd2cli.engine.player import Player
from dmd2cli.engine.sharding import gathered
from dmd2cli.engine.watch import at
from dmd2cli.protocols import Teacher
from dmd2cli.recipe import Recipe
from dmd2cli.recipe_health import lag_every
from dmd2cli.recipe_stages import staged
from dmd2cli.samplers.few_step import FewStep
from dmd2cli.source import Source
from dmd2cli.student_files import contract, student_weights, write_student


@dataclass
class DistillJob:
    """A Job of the trainer: the step of a Distillation, fed by its loader, published as a student."""

    distillation: Distillation
    phases: Sequence[Phase]
    now: int = 0
    """Which phase it is in."""
    init: Mapping[str, str] = field(default_factory=dict)
    """What the generator started from, if not from the teacher: student, sha256, licence."""
    world: World = ALONE
    checkup: Checkup | None = None

    @property
    def recipe(self) -> Recipe:
        """Of the current stage."""
        return self.phases[self.now].stage.recipe

    @property
    def loader(self) -> Loader:
        """Of the current stage."""
        return self.phases[self.now].loader

    def seek(self, step: int) -> None:
        """Enter the stage of a step, if that is another one: weights, moments and averages stay."""
        found = next(i for i, phase in enumerate(self.phases) if step < phase.stage.until or phase is self.phases[-1])
        if found != self.now:
            self.enter(found)

    def enter(self, phase: int) -> None:
        """Make a phase the current one."""
        self.now, d, stage = phase, self.distillation, self.phases[phase].stage
        run, length = stage.recipe.run, stage.until - stage.first
        d.generator.enter(stage.recipe.student, length, run.clip, stage.first)
        for critic in d.critics:
            critic.enter(stage.recipe.critic, length, run.clip, stage.first)
        d.nets = replace(d.nets, bins=stage.recipe.bins)
        d.inputs, d.turns = build.inputs(stage.recipe.student, d.teacher), build.turns(stage.recipe, stage.first)
        d.terms = self.phases[phase].terms
        scale, before = self.guidance(), self.checkup.validator if self.checkup else None
        told = scale if isinstance(scale, float) else scale["default"]
        self.checkup = checkup(stage.recipe, d, self.loader, told, before)

    def step(self, step: int) -> Mapping[str, Tensor]:
        self.seek(step)
        at("data", step)
        d, run = self.distillation, self.recipe.run
        every = lag_every(self.recipe.critic.lag_every, run.steps)
        seed_networks(run.seed, step, self.world)
        batches = self.batches(step)
        found = d.step(batches, step)
        if every is not None and (step + 1) % every == 0:
            found |= {"critic/lag": critic_lag(d, batches, step)}
        if (step + 1) % run.log_every == 0:
            learned = ((name, player) for name, player in self.players().items() if player.updates)
            found |= {f"{name}/update_ratio": player.ratio() for name, player in learned}
        if self.checkup is not None:
            found |= self.checkup(self.source, batches, step + 1)
        return found | ({"stage": torch.tensor(self.now)} if len(self.phases) > 1 else {})

    @property
    def over(self) -> bool:
        """Whether the validation has not got better for long enough to stop."""
        return self.validator is not None and self.validator.over

    @property
    def validator(self) -> Validator | None:
        """What measures the student on a schedule, if anything does."""
        return None if self.checkup is None else self.checkup.validator

    def batches(self, step: int) -> list[Batch]:
        """What a step trains on: this rank's rows."""
        return self.loader(step, self.distillation.teacher, self.world.rows(self.recipe.run.batch))

    @property
    def cycle(self) -> int:
        """Steps from one update of the student to the next."""
        return self.recipe.ttur

    def updates(self, step: int) -> int:
        """How many of the first `step` steps move the student."""
        found = 0
        for phase in self.phases:
            stage = phase.stage
            turns = build.turns(stage.recipe, stage.first)
            found += turns.moved(min(step, stage.until)) if step > stage.first else 0
        return found

    def watched(self) -> dict[str, nn.Module]:
        """The networks by the names that people know them by."""
        d = self.distillation
        found: dict[str, Any] = {"teacher": d.teacher.denoiser, "generator": d.generator.module}
        for name, player in self.players().items():
            if name != "generator":
                found |= {f"{name}.fake": player.module["fake"], f"{name}.head": player.module["head"]}  # type: ignore
        return found

    def balances(self) -> dict[str, Balance]:
        """The weights that are measured, by term."""
        return {name: w for name, (w, _) in self.distillation.terms.items() if isinstance(w, Balance)}

    def state(self) -> dict[str, Any]:
        measured = {name: balance.state() for name, balance in self.balances().items()}
        players = {name: player.state() for name, player in self.players().items()}
        begun = {"init": initial.as_tensor(self.init)} if self.recipe.student.init is not None else {}
        score = {"validation": self.validator.state()} if self.validator is not None else {}
        return {"players": players, **({"balance": measured} if measured else {}), **begun, **score}

    def players(self) -> dict[str, Player]:
        """By the names they have in a checkpoint."""
        d = self.distillation
        later = {f"critic-{call}": critic for call, critic in enumerate(d.later, 1)}
        return {"generator": d.generator, "critic": d.critic, **later}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for name, player in self.players().items():
            player.load_state(state["players"][name])
        for name, balance in self.balances().items():
            balance.load_state(state["balance"][name])
        self.init = initial.from_tensor(state["init"]) if "init" in state else {}
        if self.validator is not None:
            self.validator.load_state(state["validation"])

    @contextmanager
    def source(self, averaged: bool = True) -> Iterator[Source]:
        """What the student draws with, now. averaged: with its moving average, if it has one."""
        d, scale = self.distillation, self.guidance()
        sampler = FewStep(d.inputs.times, d.inputs.stochastic)
        reads, default = (False, 1.0) if isinstance(scale, float) else (True, scale["default"])
        with d.generator.averaged() if averaged else nullcontext(d.generator.module) as network:
            yield Source(d.teacher, network, sampler, default, reads_scale=reads)

    def guidance(self) -> float | dict[str, float]:
        """The scale that is baked in, or the range of a student that reads it."""
        stages, chosen = (self.phases[self.now], *self.phases), self.recipe.student.guidance
        scales = (matching_guidance(phase.stage.recipe) for phase in stages)
        pairs = self.loader.pairs.dataset if self.loader.pairs else None
        scale: float = next((found for found in scales if found is not None), getattr(pairs, "guidance", 1.0))
        if chosen is None:
            return scale
        return {"min": chosen.min, "max": chosen.max, "default": min(max(scale, chosen.min), chosen.max)}

    def publication(self, folder: Path, step: int) -> Callable[[], None]:
        d = self.distillation
        weights = "ema" if d.generator.ema else "raw"
        trained: dict[str, Any] = {"steps": step, "generator_updates": d.generator.updates, "weights": weights}
        measured = {name: balance.weight for name, balance in self.balances().items()}
        trained |= {"auto_weights": measured} if measured else {}
        trained |= {"init": dict(self.init)} if self.init else {}
        sampler = FewStep(d.inputs.times, d.inputs.stochastic)
        found = contract(d.teacher, self._named(), sampler, self.guidance(), trained, self.lora())
        with d.generator.averaged() as network:
            tensors = student_weights(network, gathered(network))
        if not self.world.first:
            return lambda: None
        best = self.validator is not None and self.validator.step == step

        def write() -> None:
            write_student(folder / "student", tensors, found)
            if best:
                write_student(folder / "best", tensors, found)

        return write

    def publish(self, folder: Path, step: int) -> None:
        """Write the student so far into the run folder."""
        self.publication(folder, step)()

    def lora(self) -> dict[str, Any] | None:
        """What a student that is an adapter records of it."""
        asked, targets = self.recipe.student.lora, self.distillation.teacher.lora_targets
        return None if asked is None else {**asked.model_dump(), "targets": list(asked.targets or targets)}

    def _named(self) -> dict[str, Any]:
        """The plugins of the recipe that a student remembers."""
        recipe = self.recipe
        metrics = [as_dict(metric) for metric in recipe.metrics]
        return {"teacher": as_dict(recipe.teacher), "teacher_sampler": as_dict(recipe.sampler), "metrics": metrics}

    def preview(self, path: Path) -> None:
        run = self.recipe.run
        with self.source() as source:
            preview.draw(source, self.loader, run.micro_batch or run.batch, path if self.world.first else None)

    def close(self) -> None:
        for phase in self.phases:
            phase.loader.close()


def job(recipe: Recipe, device: torch.device, world: World = ALONE, fresh: bool = True) -> DistillJob:
    """The job of a recipe, all of its stages built. Raises UserError for whatever in it cannot be.

    fresh: it continues no checkpoint, so the generator starts from student.init if there is one.
    """
    stages, begun = staged(recipe), dict[str, str]()

    def start(teacher: Teacher, generator: nn.Module) -> None:
        begun.update(initial.start(recipe, teacher, generator))

    begins = fresh and recipe.student.init is not None
    d = build.distillation(stages[0].recipe, device, world, start if begins else None)
    ready = DistillJob(d, phases(stages, d, device), init=world.shared(lambda: begun) if begins else {}, world=world)
    ready.enter(0)
    for balance in (w for phase in ready.phases for w, _ in phase.terms.values() if isinstance(w, Balance)):
        balance.total = world.total
    return ready
