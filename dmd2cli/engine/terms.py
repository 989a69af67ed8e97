"""The loss terms of a recipe, checked against the networks and the data that they will meet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

from dmd2cli.engine.balance import REFERENCE, Balance
from dmd2cli.engine.distillation import Terms
from dmd2cli.errors import UserError
from dmd2cli.protocols import Loss, Nets, Teacher
from dmd2cli.recipe import Recipe
from dmd2cli.recipe_build import build
from dmd2cli.recipe_yaml import place

Found = TypeVar("Found")


def terms(recipe: Recipe, source: Teacher, nets: Nets) -> Terms:
    """The loss terms with their weights. Raises UserError for one that these networks or this data cannot serve."""
    found: dict[str, tuple[float | Balance, Loss]] = {}
    for name, term in recipe.losses.items():
        loss: Loss = build("losses", term, f"losses.{name}")
        where = f"{place(recipe.places, f'losses.{name}')}losses.{name}: "
        if (check := getattr(loss, "check", None)) is not None:
            prefixed(where, partial(check, source, nets))
        found[name] = (weight(recipe, name, loss, where), loss)
    needs_data(recipe, {name: loss for name, (_, loss) in found.items()})
    return found


def weight(recipe: Recipe, name: str, loss: Loss, where: str) -> float | Balance:
    """The recipe's weight of a term, or what measures it. Raises UserError if it cannot be measured."""
    term = recipe.losses[name]
    if term.weight != "auto":
        return term.weight
    if loss.player != "generator" or name == REFERENCE or REFERENCE not in recipe.losses:
        raise UserError(f"{where}weight auto is for generator terms beside {REFERENCE}; give a number")
    return Balance(name, term.auto_updates)


def prefixed(where: str, action: Callable[[], Found]) -> Found:
    """What the action returns; a UserError gets its place in the recipe before it."""
    try:
        return action()
    except UserError as err:
        raise UserError(f"{where}{err}") from err


def needs_data(recipe: Recipe, losses: Mapping[str, Loss]) -> None:
    """Raise UserError if something reads data that the recipe does not have, or a player has no term."""
    where, student = place(recipe.places, "losses"), recipe.student
    if any(loss.reads_real for loss in losses.values()) and recipe.data.real is None:
        names = ", ".join(name for name, loss in losses.items() if loss.reads_real)
        raise UserError(f"{where}losses.{names} reads real data: add data.real, or remove the term")
    inputs = "real" in (student.input, student.first_input) or recipe.data.prompts_of_real
    if inputs and recipe.data.real is None:
        raise UserError("student.input, student.first_input or data.prompts_of_real reads real data: add data.real")
    if any(getattr(loss, "reads_pairs", False) for loss in losses.values()) and recipe.data.pairs is None:
        raise UserError(f"{where}regression reads pairs: make some with `dmd2 pairs` and pass data.pairs.path=DIR")
    alone = all(getattr(loss, "reads_pairs", False) for loss in losses.values())
    for player in ("generator", *(() if alone else ("critic",))):
        if not any(loss.player == player for loss in losses.values()):
            raise UserError(f"{where}no term for the {player}: it would never learn; add one")
    readers = [name for name, loss in losses.items() if getattr(loss, "reads_logits", False)]
    if readers and not trains_head(losses.values()):
        raise UserError(f"{where}losses.{readers[0]} reads the discriminator, which no term trains: add gan_critic")
    if "joint_critic" in losses and (twice := losses.keys() & {"denoising", "gan_critic"}):
        raise UserError(f"{where}joint_critic is denoising and gan_critic in one: set {min(twice)} to null, or it")


def trains_head(losses: Iterable[Loss]) -> bool:
    """Does a term teach the discriminator?"""
    return any(loss.player == "critic" and loss.reads_real for loss in losses)
