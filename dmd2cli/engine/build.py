"""From a recipe to the objects of a run: teacher, networks, players, terms, loader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from dmd2cli import registry
from dmd2cli.data.base import Loader, Paired
from dmd2cli.data.reader import Reader
from dmd2cli.engine.distillation import Distillation
from dmd2cli.engine.inputs import Inputs
from dmd2cli.engine.layout import lay_out
from dmd2cli.engine.loss_scale import check_fp16
from dmd2cli.engine.networks import networks, place_all
from dmd2cli.engine.offload import check_offload, offload
from dmd2cli.engine.parallel import ALONE, World
from dmd2cli.engine.player import Player
from dmd2cli.engine.runtime import prepare
from dmd2cli.engine.sharding import built
from dmd2cli.engine.terms import prefixed, terms
from dmd2cli.engine.turns import Turns
from dmd2cli.errors import UserError
from dmd2cli.protocols import Dataset, Teacher
from dmd2cli.recipe import Data, Recipe, Run, Student, Use
from dmd2cli.recipe_build import build
from dmd2cli.recipe_parts import Pairs
from dmd2cli.recipe_yaml import place
from dmd2cli.samplers.few_step import check_table
from dmd2cli.source import Source


def teacher(recipe: Recipe, device: torch.device, world: World = ALONE) -> Teacher:
    """The recipe's teacher, frozen, on the device. Of several ranks the first one reads its weights."""
    if world.first:
        found: Teacher = build("teachers", recipe.teacher, "teacher")
    details = world.shared(lambda: dict(found.details), patient=True) if world.size > 1 else {}
    if not world.first:
        with built(world):
            found = registry.load("teachers", recipe.teacher.use)(skeleton=details)
    at_once = world.size == 1 and "teacher" not in recipe.run.offload
    prepare(found.denoiser.eval().requires_grad_(False), device, recipe.run, found.units, place=at_once)
    for helper in found.helpers:
        helper.eval().requires_grad_(False).to(device)
    return found


def teacher_source(recipe: Recipe, device: torch.device) -> Source:
    """The recipe's teacher with its own sampler, ready to draw."""
    found = teacher(recipe, device)
    return Source(found, found.denoiser, build("samplers", recipe.sampler, "sampler"))


def distillation(
    recipe: Recipe,
    device: torch.device,
    world: World = ALONE,
    start: Callable[[Teacher, nn.Module], None] | None = None,
) -> Distillation:
    """Everything that steps, with generator and critic starting as copies of the teacher ([DMD2] Sec. 3).

    start: given the teacher and the generator, puts other weights into it, on the first rank.
    """
    check_offload(recipe, world.size)
    source, run = teacher(recipe, device, world), recipe.run
    build("samplers", recipe.sampler, "sampler")           # not needed to train, but better refused now than after
    check_times(recipe, source)
    check_fp16(source, run)
    with built(world):
        found = networks(recipe, source, device, world)
    if start is not None and world.first:
        start(found.teacher, found.generator)
    lay_out(world, run, found.learners, found.frozen, device)
    if world.size > 1:
        place_all(found, device, world)
    if "teacher" in run.offload:
        offload(found.teacher.denoiser, device, found.teacher.units)
    nets, source = found.nets(recipe), found.teacher
    critic, *later = (Player(module, recipe.critic, run.steps, run.clip, run, world) for module in found.critics)
    return Distillation(
        source,
        nets,
        Player(found.generator, recipe.student, run.steps, run.clip, run, world),
        critic,
        terms(recipe, source, nets),
        inputs(recipe.student, source),
        turns(recipe),
        run.seed,
        later,
    )


def inputs(student: Student, source: Teacher) -> Inputs:
    """How the student is called in training."""
    scales = (student.guidance.min, student.guidance.max) if student.guidance else None
    real = (student.input == "real", student.first_input == "real")
    return Inputs(source.schedule, source.shape, student.times, student.sampler == "stochastic", *real, scales)


def turns(recipe: Recipe, first: int = 0) -> Turns:
    """Whose turn it is, counted from the first step of a stage."""
    return Turns(recipe.ttur, recipe.critic.warmup, recipe.turns == "alternate", first)


def loader(
    data: Data, run: Run, device: torch.device, of_real: bool = False, made: Callable[..., Dataset] = build
) -> Loader:
    """The batches of a run, by step. of_real: conditions are those of the real data. made: how data sets are built."""
    use: Mapping[str, Use | None] = {"prompts": data.prompts, "real": data.real, "pairs": data.pairs}
    found = {key: made("datasets", u, f"data.{key}") if u is not None else None for key, u in use.items()}
    size, paired = run.micro_batch or run.batch, None
    if data.pairs is not None and found["pairs"] is not None:
        paired = Paired(found["pairs"], pairs_per_update(data.pairs, run), data.pairs.matched)
    streams = (found["prompts"], found["real"], paired, of_real)
    return Loader(run.seed, run.batch, size, device, *streams, Reader(data.workers))


def pairs_per_update(pairs: Pairs, run: Run) -> int:
    """Pairs in a global batch. Raises UserError if they cannot be shared out among its micro-batches."""
    n, micro = pairs.batch or run.batch, run.micro_batch or run.batch
    where = f"{place(pairs.places, 'data.pairs')}data.pairs.batch: "
    if n * micro % run.batch:
        raise UserError(f"{where}{n} pairs cannot be shared out among {run.batch // micro} micro-batches; change it")
    if pairs.matched and n > run.batch:
        raise UserError(f"{where}{n} matched pairs are more than run.batch = {run.batch}, which they are part of")
    return n


def check_times(recipe: Recipe, source: Teacher) -> None:
    """Raise UserError for student times that are not among the timesteps of a table."""
    where = place(recipe.places, "student.times")
    prefixed(f"{where}student.times: ", partial(check_table, source.schedule, recipe.student.times))
