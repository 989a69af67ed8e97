"""student.init: the generator of a new run starts from another student instead of from its teacher."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmd2cli import published, registry
from dmd2cli.adapters import View, merged
from dmd2cli.cache import sha256
from dmd2cli.core.denoiser import Preconditioned
from dmd2cli.engine.terms import prefixed
from dmd2cli.errors import UserError
from dmd2cli.protocols import Teacher
from dmd2cli.recipe import Recipe
from dmd2cli.recipe_parts import Lora
from dmd2cli.recipe_yaml import place
from dmd2cli.student import find, opened, revived
from dmd2cli.weights import fit_weights

Contract = Mapping[str, Any]


def start(recipe: Recipe, source: Teacher, network: nn.Module) -> dict[str, str]:
    """Put the weights of the student that student.init names into a generator; gives what is recorded of it.

    source: the recipe's teacher. Raises UserError, naming both, for a student that does not fit.
    """
    ref = recipe.student.init
    assert ref is not None, "asked for"
    where = f"{place(recipe.places, 'student.init')}student.init: "
    return prefixed(where, partial(loaded, ref, recipe, source, network))


def loaded(ref: str, recipe: Recipe, source: Teacher, network: nn.Module) -> dict[str, str]:
    """start() without its place in the recipe."""
    contract, tensors, name = opened(ref)
    theirs = f"{ref} is a student of {called(contract['teacher'])}"
    ours = f"this recipe's teacher is {called({'use': recipe.teacher.use, **recipe.teacher.options})}"
    if contract["teacher"]["use"] != recipe.teacher.use:
        raise UserError(f"{theirs}, and {ours}: a student goes on with a teacher of its own family")
    weights: Mapping[str, Tensor]
    if isinstance(network, View):
        weights = factors(contract, tensors, source, recipe, theirs)
    else:
        weights = whole(contract, tensors, name, recipe.student.guidance is not None)
        like(contract, source, f"{theirs}, and {ours}")
    names = network.weights() if isinstance(network, View) else network.state_dict()
    if differs := difference(weights, names):
        raise UserError(f"{theirs}, and {ours}: its network is another one ({differs})")
    if isinstance(network, View):
        network.load(weights, name)
    else:
        fit_weights(network, weights, name)
    return record(ref, contract)


def whole(contract: Contract, tensors: Mapping[str, Tensor], name: str, reads_scale: bool) -> Mapping[str, Tensor]:
    """The weights of a student that is a whole network, or of a LoRA merged into its base.

    reads_scale: whether they are for a network that reads the guidance scale.
    """
    theirs = isinstance(contract["guidance"], Mapping)
    if theirs and not reads_scale:
        raise UserError(f"{name} reads the guidance scale, and this recipe's student does not; add student.guidance")
    if contract.get("lora") is None and theirs == reads_scale:
        return tensors
    student = revived(contract, tensors, name, "cpu")
    network = student.source.network
    network = merged(network) if isinstance(network, View) else network
    if not reads_scale:
        return network.state_dict()
    made = skeleton(contract)
    fit_weights(made.denoiser, network.state_dict(), name)
    assert made.guided_network is not None, "the recipe's student is one"
    return made.guided_network().state_dict()


def factors(
    contract: Contract, tensors: Mapping[str, Tensor], source: Teacher, recipe: Recipe, theirs: str
) -> dict[str, Tensor]:
    """The factors of a LoRA for another of the same layers and rank; where alpha differs, that goes into B.

    Raises UserError for a student that is none, or that has another base or rank.
    """
    asked, held = recipe.student.lora, contract.get("lora")
    assert asked is not None, "the generator is an adapter"
    if held is None:
        why = "a whole network, which an adapter of the teacher cannot hold"
        raise UserError(f"{theirs} and {why}; leave student.lora{' and shared_base' * recipe.shared_base} out")
    if not same_base(contract["details"], json.loads(json.dumps(dict(source.details)))):
        raise UserError(f"{theirs} with weights other than this recipe's teacher; leave student.lora out to merge it")
    old = Lora(**{**held, "targets": tuple(held["targets"])})
    if old.rank != asked.rank:
        raise UserError(
            f"{theirs}, a LoRA of rank {old.rank}, and student.lora.rank is {asked.rank}: a frozen base that others "
            f"share cannot take it up; set student.lora.rank={old.rank}, or leave student.lora out to merge it"
        )
    scale = old.alpha / asked.alpha
    return {name: t * scale if ".lora_B." in name else t for name, t in tensors.items()}


def same_base(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two teachers, by their details, have the same weights: by their hashes if both have one."""
    keys = ("sha256", "lora") if old.get("sha256") and new.get("sha256") else tuple(old.keys() | new.keys())
    return all(old.get(key) == new.get(key) for key in keys)


def like(contract: Contract, source: Teacher, both: str) -> None:
    """Raise UserError if the student predicts something else, or at other noise levels, than the teacher."""
    old, new = skeleton(contract).denoiser, source.denoiser
    if not isinstance(old, Preconditioned) or not isinstance(new, Preconditioned):
        return
    t = torch.linspace(0.05, 1, 20, dtype=torch.float64)
    mine, theirs = (torch.stack([*part.schedule(t), *part.parametrization(*part.schedule(t))]) for part in (new, old))
    if not torch.allclose(mine, theirs, rtol=1e-6):
        raise UserError(f"{both}: it predicts something else (eps, v or flow), or at other noise levels")


def skeleton(contract: Contract) -> Teacher:
    """A student's teacher without its weights."""
    found: Teacher = registry.load("teachers", contract["teacher"]["use"])(skeleton=contract["details"])
    return found


def difference(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """The first of the weights that are missing, unknown or of another shape, in words; empty if there are none."""
    found: dict[str, Iterable[str]] = {
        "lacks": own.keys() - weights.keys(),
        "has besides": weights.keys() - own.keys(),
        "has other shapes of": [k for k in own.keys() & weights.keys() if own[k].shape != weights[k].shape],
    }
    return next((f"{what} {min(names)}, {len(list(names))} in all" for what, names in found.items() if names), "")


def called(teacher: Mapping[str, Any]) -> str:
    """A teacher in words: its family, and what it is besides, if that is named."""
    more = next((str(teacher[key]) for key in ("model", "preset", "weights") if teacher.get(key)), "")
    return f"{teacher['use']}{f' ({more})' if more else ''}"


def record(ref: str, contract: Contract) -> dict[str, str]:
    """Which weights exactly, and their licence if it is known."""
    trained = contract.get("trained", {})
    source = trained.get("converted", {})
    digest = source["sha256"] if published.known(ref) else sha256(find(Path(ref)))
    licence = source.get("licence") or trained.get("init", {}).get("licence")
    return {"student": ref, "sha256": digest, **({"licence": licence} if licence else {})}


SIZE = 2048
"""Bytes that a record has in a checkpoint."""


def as_tensor(record: Mapping[str, str]) -> Tensor:
    """A record for a checkpoint."""
    data = json.dumps(record).encode().ljust(SIZE)
    return torch.frombuffer(bytearray(data[:SIZE]), dtype=torch.uint8).clone()


def from_tensor(held: Tensor) -> dict[str, str]:
    """as_tensor() undone."""
    found: dict[str, str] = json.loads(bytes(held.tolist()))
    return found
