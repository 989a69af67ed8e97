"""What a recipe takes of a device's memory, network by network and phase by phase, at any micro-batch.

    peak = weights + optimiser moments + moving averages + data of a step + max over phases (gradients + activations)

Gradients exist only while their player is updated: never those of both at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dmd2cli.engine import preview
from dmd2cli.engine.networks import Networks
from dmd2cli.engine.offload import check_offload
from dmd2cli.engine.plan import helpers
from dmd2cli.engine.plan.account import Network
from dmd2cli.engine.plan.networks import fake, players, size
from dmd2cli.engine.plan.probe import Rehearsal, Rehearsed
from dmd2cli.engine.plan.stores import learning, waiting
from dmd2cli.recipe import Recipe, Run
from dmd2cli.recipe_stages import Stage, staged


@dataclass(frozen=True)
class Phase:
    """A part of training at one micro-batch, in bytes at its worst moment. stage: None for all of them."""

    stage: int | None
    name: str
    gradients: int
    activations: int
    """And temporaries."""
    peak: int
    """With what lasts."""


@dataclass(frozen=True)
class Memory:
    """A recipe, rehearsed."""

    networks: Sequence[Network]
    stages: Sequence[tuple[Stage, Rehearsed]]
    batch: int
    preview: int
    """Images of a preview, a micro-batch of them at once; 0 for none."""
    decoding: helpers.Decoding | None = None
    """Of these images, where a network decodes them."""

    @property
    def data(self) -> int:
        """Bytes of a step's batch."""
        return self.batch * max(found.row_bytes for _, found in self.stages)

    @property
    def lasting(self) -> int:
        """Bytes that are there all the time."""
        return sum(network.lasting for network in self.networks) + self.data

    def phases(self, rows: int) -> list[Phase]:
        """All phases at a micro-batch of so many rows."""
        found = list[Phase]()
        gradients = {network.name: network.gradients for network in self.networks}
        for i, (_, stage) in enumerate(self.stages):
            for name, curve in (("generator", stage.generator), ("critic", stage.critic)):
                alive, formed = curve.peak(rows, gradients[name] if rows < self.batch else None)
                found.append(Phase(i, f"{name} update", formed, alive - formed, self.lasting + alive))
        found += self.previews(min(rows, self.preview)) if self.preview else []
        copies = sum(network.copies for network in self.networks)
        return [*found, Phase(None, "checkpoint", 0, copies, self.lasting + copies)]

    def previews(self, rows: int) -> list[Phase]:
        """Drawing a preview, and decoding it, so many images at once."""
        drawn = max(stage.sample.peak(rows)[0] for _, stage in self.stages)
        found = {f"preview of {self.preview}": drawn}
        if self.decoding is not None and self.decoding.problem is None:
            found["decoding of a preview"] = self.decoding.peak(rows)
        return [Phase(None, name, 0, size, self.lasting + size) for name, size in found.items()]

    def peak(self, rows: int) -> int:
        """Bytes at the worst moment of a run."""
        return max(phase.peak for phase in self.phases(rows))


def memory(recipe: Recipe, kind: str) -> Memory:
    """Rehearse every stage of a recipe, as on a device of some kind: cuda or cpu. Raises UserError as players()."""
    check_offload(recipe)
    stages, mode = staged(recipe), FakeTensorMode(allow_non_fake_inputs=True)
    cast = players(stages[0].recipe, kind)
    averaged = any(stage.recipe.student.ema_halflife_images is not None for stage in stages)
    networks = accounts(cast, averaged, kind, recipe.run)
    for module in (*cast.frozen, *cast.learners, *cast.teacher.helpers):
        fake(module, mode)
    known = dict[str, Rehearsed]()
    with helpers.watched(cast.teacher.helpers) as used:
        for stage in stages:
            if (key := same(stage.recipe)) not in known:
                known[key] = Rehearsal(stage.recipe, cast, mode, kind).rehearsed()
    found = [(stage, known[same(stage.recipe)]) for stage in stages]
    extra = {name: weights for _, stage in found for name, weights in stage.extra.items()}
    networks += [Network(name, weights // 4, weights) for name, weights in extra.items()]
    n = preview.count(cast.teacher) if recipe.run.preview_every is not None else 0
    decoding = helpers.Decoding(cast.teacher, mode) if n and cast.teacher.helpers else None
    text = any(helpers.on_the_fly(stage.recipe) for stage in stages)
    asked = helpers.loaded(cast.teacher, used | (decoding.used if decoding else set()), text, mode)
    networks += [Network(name, count(helper), size(helper)) for name, helper in asked]
    return Memory(networks, found, recipe.run.batch, n, decoding)


def stored(recipe: Recipe, found: Memory, kind: str) -> Memory:
    """A rehearsed recipe with other run.optimiser and run.offload. Raises UserError as memory()."""
    check_offload(recipe)
    averaged = any(stage.recipe.student.ema_halflife_images is not None for stage in staged(recipe))
    now = {network.name: network for network in accounts(players(recipe, kind), averaged, kind, recipe.run)}
    return replace(found, networks=[now.get(network.name, network) for network in found.networks])


def lasting(recipe: Recipe, kind: str) -> int:
    """Bytes that the networks of a recipe take at least, without a rehearsal. Raises UserError as players()."""
    first = staged(recipe)[0].recipe
    found = accounts(players(first, kind), first.student.ema_halflife_images is not None, kind, first.run)
    return sum(network.lasting for network in found) + max(network.gradients for network in found)


def same(recipe: Recipe) -> str:
    """What a stage's rehearsal depends on, of all that a stage may change: rates and weights are no part of it."""
    found = recipe.model_dump(mode="json", include={"losses", "data", "student", "bins", "run"})
    student = {k: v for k, v in found["student"].items() if k in ("times", "sampler", "input", "first_input")}
    losses = {name: {k: v for k, v in term.items() if k != "weight"} for name, term in found["losses"].items()}
    return json.dumps([losses, found["data"], student, found["bins"], found["run"]["batch"]], sort_keys=True)


def accounts(cast: Networks, averaged: bool, kind: str, run: Run) -> list[Network]:
    """The players' networks; the critics of several calls are named critic, critic-1, ..."""
    first, *others = cast.frozen
    teacher = waiting(resting("teacher", first), first, cast.teacher.units, run, kind)
    found = [teacher, *(resting(f"base {i}", base) for i, base in enumerate(others, 1))]
    found.append(learner("generator", cast.generator, averaged, kind, run))
    if cast.teacher.network is not None:
        found.append(Network("start", count(cast.teacher.network), size(cast.teacher.network)))
    names = ["critic", *(f"critic-{call}" for call in range(1, len(cast.critics)))]
    return found + [learner(name, critic, False, kind, run) for name, critic in zip(names, cast.critics, strict=True)]


def learner(name: str, module: nn.Module, averaged: bool, kind: str, run: Run) -> Network:
    """A network with AdamW's two moments, and a copy of its weights for the average."""
    moving = [p for p in module.parameters() if p.requires_grad]
    gradients, scattered = sum(p.nbytes for p in moving), sum(p.nbytes for p in moving if not p.is_contiguous())
    copies, weights = (3 + averaged) * scattered if kind == "cpu" else 0, size(module)
    found = Network(name, count(module), weights, gradients, average=averaged * gradients, copies=copies)
    return learning(found, moving, run, kind)


def count(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(p.numel() for p in module.parameters())


def resting(name: str, module: nn.Module) -> Network:
    """A frozen network, without the adapters in it, which are networks of their own."""
    frozen = [p for p in module.parameters() if not p.requires_grad]
    buffers = sum(b.nbytes for b in module.buffers())
    return Network(name, sum(p.numel() for p in frozen), sum(p.nbytes for p in frozen) + buffers)
