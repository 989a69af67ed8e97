"""From a recipe to the objects of a run: teacher, networks, players, terms, loader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from dmd2cli.core.denoiser import Denoiser
from dmd2cli.core.heads import Heads, head_for
from dmd2cli.core.random import Rng
from dmd2cli.data.base import Loader, Paired
from dmd2cli.data.reader import Reader
from dmd2cli.engine.distillation import Distillation
from dmd2cli.engine.inputs import Inputs
from dmd2cli.engine.player import Player
from dmd2cli.engine.runtime import prepare, store_teacher
from dmd2cli.engine.terms import prefixed, terms
from dmd2cli.engine.turns import Turns
from dmd2cli.errors import UserError
from dmd2cli.protocols import Dataset, Nets, Teacher
from dmd2cli.recipe import Data, Recipe, Run, Student, Use
from dmd2cli.recipe_build import build
from dmd2cli.recipe_parts import Head, Pairs
from dmd2cli.recipe_yaml import place
from dmd2cli.samplers.few_step import check_table
from dmd2cli.source import Source


def teacher(recipe: Recipe, device: torch.device) -> Teacher:
    """The recipe's teacher, frozen, on the device."""
    found: Teacher = build("teachers", recipe.teacher, "teacher")
    prepare(found.denoiser.eval().requires_grad_(False), device, recipe.run, found.units)
    return found


def teacher_source(recipe: Recipe, device: torch.device) -> Source:
    """The recipe's teacher with its own sampler, ready to draw."""
    found = teacher(recipe, device)
    return Source(found, found.denoiser, build("samplers", recipe.sampler, "sampler"))


def distillation(recipe: Recipe, device: torch.device) -> Distillation:
    """Everything that steps, with generator and critic starting as copies of the teacher ([DMD2] Sec. 3)."""
    source, run = teacher(recipe, device), recipe.run
    build("samplers", recipe.sampler, "sampler")           # not needed to train, but better refused now than after
    check_times(recipe, source)
    generator = trainable(source, recipe, device)
    calls = len(recipe.student.times) if recipe.critic.per_call else 1
    judges = [judge(source, recipe, device) for _ in range(calls)]
    store_teacher(source.denoiser, run)                    # after the copies, which learn in float32
    real, fake, ours = (cast(Denoiser, net) for net in (source.denoiser, judges[0]["fake"], generator))
    reads, depths = recipe.critic.head.reads, recipe.critic.head.depths
    places = (source.schedule, source.weighting, reads, depths, recipe.bins, source.decoders)
    nets = Nets(real, fake, judges[0]["head"], ours, *places)
    critic, *later = (Player(found, recipe.critic, run.steps, run.clip) for found in judges)
    return Distillation(
        source,
        nets,
        Player(generator, recipe.student, run.steps, run.clip),
        critic,
        terms(recipe, source, nets),
        inputs(recipe.student, source),
        turns(recipe),
        run.seed,
        later,
    )


def judge(source: Teacher, recipe: Recipe, device: torch.device) -> nn.ModuleDict:
    """A critic: the fake score, a copy of the teacher, and a GAN head that is the same in every run of a seed."""
    fake = trainable(source, recipe, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Rng(recipe.run.seed, 0).generator("head", torch.device("cpu")).initial_seed())
        return nn.ModuleDict({"fake": fake, "head": head(source, recipe.critic.head, fake, device)})


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


def trainable(source: Teacher, recipe: Recipe, device: torch.device) -> nn.Module:
    """A network of the teacher's that learns; one that reads the guidance scale if the student is to."""
    if recipe.student.guidance is not None:
        if source.guided_network is None:
            where = place(recipe.places, "student.guidance")
            what = f"a {recipe.teacher.use} student cannot read the scale"
            raise UserError(f"{where}student.guidance: {what}; leave it out")
        copy = source.guided_network()
    else:
        copy = deepcopy(source.network or source.denoiser)
    return prepare(copy.train().requires_grad_(True), device, recipe.run, source.units)


def head(source: Teacher, asked: Head, fake: nn.Module, device: torch.device) -> nn.Module:
    """A fresh GAN head on what it is to read. Raises UserError for a depth that is not there."""
    if asked.depths is None and asked.reads == "critic":
        return source.head().to(device)
    judge = source.denoiser if asked.reads == "teacher" else fake
    found = shapes(source, judge, asked.depths, device)
    return (Heads(found) if asked.depths is not None else head_for(found[0])).to(device)


@torch.no_grad()
def shapes(source: Teacher, judge: nn.Module, depths: tuple[int, ...] | None, device: torch.device) -> list[torch.Size]:
    """Of the features at some depths of a network, or of its bottleneck alone."""
    x, t = torch.zeros(2, *source.shape, device=device), torch.ones(2, device=device)
    cond = {k: v.to(device) for k, v in source.encode([None, None])[1].items()}
    if depths is None:
        return [judge.features(x, t, cond).shape]  # type: ignore[operator]
    try:
        taps: list[Tensor] = judge.taps(x, t, cond, depths)  # type: ignore[operator]
    except (IndexError, AttributeError):
        found = f"{list(depths)} are not all depths of this network"
        raise UserError(f"critic.head.depths: {found}; leave depths out") from None
    return [h.shape for h in taps]
