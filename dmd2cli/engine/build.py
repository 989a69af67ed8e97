"""From a recipe to the objects of a run: teacher, networks, players, terms, loader."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import cast

import torch
from torch import nn

from dmd2cli.core.denoiser import Denoiser
from dmd2cli.core.random import Rng
from dmd2cli.data.base import Loader
from dmd2cli.engine.distillation import Distillation
from dmd2cli.engine.player import Player
from dmd2cli.engine.runtime import prepare
from dmd2cli.errors import UserError
from dmd2cli.protocols import Dataset, Loss, Nets, Teacher
from dmd2cli.recipe import Data, Recipe, Run
from dmd2cli.recipe_build import build
from dmd2cli.recipe_yaml import place
from dmd2cli.source import Source


def teacher(recipe: Recipe, device: torch.device) -> Teacher:
    """The recipe's teacher, frozen, on the device."""
    found: Teacher = build("teachers", recipe.teacher, "teacher")
    prepare(found.denoiser.eval().requires_grad_(False), device, recipe.run)
    return found


def teacher_source(recipe: Recipe, device: torch.device) -> Source:
    """The recipe's teacher with its own sampler, ready to draw."""
    found = teacher(recipe, device)
    return Source(found, found.denoiser, build("samplers", recipe.sampler, "sampler"))


def distillation(recipe: Recipe, device: torch.device) -> Distillation:
    """Everything that steps, with generator and critic starting as copies of the teacher ([DMD2] Sec. 3)."""
    source, run = teacher(recipe, device), recipe.run
    terms = {name: (term.weight, _term(recipe, name)) for name, term in recipe.losses.items()}
    needs_data(recipe, (loss for _, loss in terms.values()))
    build("samplers", recipe.sampler, "sampler")           # not needed to train, but better refused now than after
    generator, fake = (_trainable(source, device, run) for _ in range(2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Rng(run.seed, 0).generator("head", torch.device("cpu")).initial_seed())
        head = source.head().to(device)
    real, *ours = (cast(Denoiser, net) for net in (source.denoiser, fake, generator))
    nets = Nets(real, ours[0], head, ours[1], source.schedule, source.weighting)
    critic = nn.ModuleDict({"fake": fake, "head": head})
    return Distillation(
        source,
        nets,
        Player(generator, recipe.student, run.steps, run.clip),
        Player(critic, recipe.critic, run.steps, run.clip),
        terms,
        recipe.student.times,
        recipe.ttur,
        run.seed,
    )


def loader(data: Data, run: Run, device: torch.device) -> Loader:
    """The batches of a run, by step."""
    prompts: Dataset | None = build("datasets", data.prompts, "data.prompts") if data.prompts else None
    real: Dataset | None = build("datasets", data.real, "data.real") if data.real else None
    return Loader(run.seed, run.batch, run.micro_batch or run.batch, device, prompts, real)


def needs_data(recipe: Recipe, losses: Iterable[Loss]) -> None:
    """Raise UserError if a term reads real data and the recipe has none, or a player has no term."""
    found = list(losses)
    if any(loss.reads_real for loss in found) and recipe.data.real is None:
        where = place(recipe.places, "losses")
        raise UserError(f"{where}a GAN term reads real data: add data.real, or remove the term")
    for player in ("generator", "critic"):
        if not any(loss.player == player for loss in found):
            raise UserError(f"{place(recipe.places, 'losses')}no term for the {player}: it would never learn; add one")


def _term(recipe: Recipe, name: str) -> Loss:
    return build("losses", recipe.losses[name], f"losses.{name}")


def _trainable(source: Teacher, device: torch.device, run: Run) -> nn.Module:
    copy = deepcopy(source.network or source.denoiser)
    return prepare(copy.train().requires_grad_(True), device, run)
