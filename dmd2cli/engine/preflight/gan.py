"""The weight at which the GAN's gradient at the sample is as large as distribution matching's, in the first updates."""

from __future__ import annotations

from functools import partial

import torch

from dmd2cli import registry
from dmd2cli.engine import build
from dmd2cli.engine.balance import REFERENCE, Balance
from dmd2cli.engine.phases import fitting
from dmd2cli.recipe import Recipe

TERM = "gan_generator"


def balanced(recipe: Recipe, device: torch.device, updates: int) -> float | None:
    """What `weight: auto` comes to after some updates of the generator; None for a recipe without these two terms.

    The two are compared while both players learn, because at the start the scores are equal, and distribution matching
    has no gradient. Terms that read noise-image pairs are left out: there may be none yet.
    """
    if not {TERM, REFERENCE} <= recipe.losses.keys() or updates < 1:
        return None
    found = build.distillation(asked := measuring(recipe, updates), device)
    loader = build.loader(asked.data, asked.run, device, made=partial(fitting, found.teacher))
    for step in range(updates * asked.ttur):
        found.step(loader(step, found.teacher), step)
    loader.close()
    weight = found.terms[TERM][0]
    assert isinstance(weight, Balance), "asked for"
    return weight.weight or None


def measuring(recipe: Recipe, updates: int) -> Recipe:
    """The same recipe with the weight measured, both players moving from the first step, and without pairs."""
    paired = [name for name in recipe.losses if getattr(registry.load("losses", name), "reads_pairs", False)]
    losses = {name: term for name, term in recipe.losses.items() if name not in paired}
    losses[TERM] = losses[TERM].model_copy(update={"weight": "auto", "auto_updates": updates})
    parts = {
        "losses": losses,
        "data": recipe.data.model_copy(update={"pairs": None}),
        "critic": recipe.critic.model_copy(update={"warmup": 0}),
        "turns": "together",
        "run": recipe.run.model_copy(update={"steps": max(recipe.run.steps, updates * recipe.ttur)}),
    }
    return recipe.model_copy(update=parts)
