"""The networks of a recipe without their weights: shapes to be counted, and stand-ins that can be run."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial, update_wrapper
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from dmd2cli import registry
from dmd2cli.core.denoiser import Preconditioned
from dmd2cli.engine import build, runtime
from dmd2cli.engine.networks import Networks, networks
from dmd2cli.errors import UserError
from dmd2cli.recipe import Recipe
from dmd2cli.recipe_yaml import place

META = torch.device("meta")


def players(recipe: Recipe, kind: str) -> Networks:
    """The networks of a recipe on the meta device, as on a device of some kind: cuda or cpu.

    The teacher's checkpoint is not read; a teacher function without `skeleton` cannot be planned. Raises UserError
    for what build.distillation() would refuse.
    """
    simple = {"precision": "fp32", "teacher_weights": "fp32", "compile": False}        # meta tensors have no autocast
    plain = recipe.model_copy(update={"run": recipe.run.model_copy(update=simple)})
    with absent_weights(recipe), META:
        source = build.teacher(plain, META)
        build.check_times(plain, source)
        found = networks(plain, source, META)
    for part in (part for module in (*found.frozen, *found.learners) for part in module.modules()):
        if isinstance(part, Preconditioned):
            part.autocast = dtype(recipe, kind)
    for base in found.frozen:
        runtime.store_teacher(base, recipe.run)
    return found


def dtype(recipe: Recipe, kind: str) -> torch.dtype | None:
    """Of autocast; auto is bfloat16 on any GPU."""
    asked = recipe.run.precision
    return runtime.AUTOCAST.get("bf16" if asked == "auto" and kind == "cuda" else asked)


@contextmanager
def absent_weights(recipe: Recipe) -> Iterator[None]:
    """Inside, the recipe's teacher is built with weights that are not there."""
    name = recipe.teacher.use
    factory, where = registry.load("teachers", name), f"{place(recipe.places, 'teacher')}teacher"
    if "skeleton" not in inspect.signature(factory).parameters:
        raise UserError(f"{where}: {name} cannot be built without its weights (it takes no skeleton): no plan for it")
    try:
        with registry.override("teachers", name, update_wrapper(partial(factory, skeleton={}), factory)), silent():
            yield
    except (RuntimeError, NotImplementedError, KeyError) as err:
        why = f"{type(err).__name__}: {str(err).partition(chr(10))[0]}"
        raise UserError(f"{where}: {name} cannot be built without its weights ({why}): no plan for it") from err


@contextmanager
def silent() -> Iterator[None]:
    """Inside, weights that are read into a network without memory are dropped without a word."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter", UserWarning)
        yield


def fake(module: nn.Module, mode: FakeTensorMode) -> None:
    """Put tensors in a meta module's place that can be run under the mode, as if on a CPU."""
    made: dict[int, Any] = {}
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None and not isinstance(p, FakeTensor):
                part._parameters[name] = made.setdefault(id(p), nn.Parameter(stand_in(p, mode), p.requires_grad))
        for name, b in part._buffers.items():
            if b is not None:
                part._buffers[name] = made.setdefault(id(b), stand_in(b, mode))


def stand_in(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    """A fake CPU tensor of a tensor's shape, strides and type."""
    if tensor.is_meta:
        return FakeTensor(mode, tensor.detach(), torch.device("cpu"))
    return mode.from_tensor(tensor.detach())


def size(module: nn.Module) -> int:
    """Bytes of its parameters and buffers."""
    return sum(t.nbytes for t in (*module.parameters(), *module.buffers()))
