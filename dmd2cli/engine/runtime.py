"""Where and how networks run: device, threads, precision, memory order, activation checkpointing, compilation."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper, checkpoint_wrapper
from torch.utils.checkpoint import create_selective_checkpoint_contexts

from dmd2cli.core.denoiser import Preconditioned
from dmd2cli.errors import UserError
from dmd2cli.recipe import Run

Units = tuple[type[nn.Module], ...]
"""Teacher.units: classes of a network's blocks."""

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""run.precision -> what autocast computes in; float32 for any other."""

COSTLY = tuple(
    getattr(torch.ops.aten, name).default
    for name in (
        "mm", "addmm", "bmm", "baddbmm", "convolution", "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_fused_attention_overrideable",
    )
)  # fmt: skip
"""Operations whose results selective checkpointing keeps: what a second forward pass spends its time on."""

VARIANTS = 64
"""How often one block may be compiled: for each batch size, with and without gradient, frozen or not."""


def device(name: str = "auto") -> torch.device:
    """cuda, mps or cpu, whichever is there first; or the one named. Raises UserError if that is absent."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        found = torch.device(name)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as err:
        reason = str(err).splitlines()[0]
        raise UserError(f"device '{name}' cannot be used: {reason}; try device=cpu, cuda or mps") from None
    return found


def set_threads(threads: int | None, ranks: int = 1) -> int:
    """Use that many CPU threads, or by default a share of the cores it may run on; returns the number.

    ranks: processes on this machine that share them.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads or max(1, min(usable // ranks, torch.get_num_threads())))
    return torch.get_num_threads()


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """bfloat16, float16, or None for float32. auto is bfloat16 only on a GPU with the matrix hardware for it."""
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if fast else None
    return AUTOCAST.get(precision)


def set_tf32(run: Run) -> None:
    """Float32 products and convolutions of this process in TF32 as run.tf32 has it, on GPUs that can; else exact."""
    torch.set_float32_matmul_precision("high" if run.tf32 else "highest")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please use the new API", UserWarning)     # which other code cannot read yet
        torch.backends.cudnn.allow_tf32 = run.tf32


def check_layout(run: Run, world: int) -> None:
    """Raise UserError for channels-last weights that are to be shared out: FSDP2 takes contiguous ones alone."""
    if run.channels_last and world > 1:
        raise UserError(f"run.channels_last: weights in that order cannot be laid over {world} ranks; leave it out")


def prepare(
    module: nn.Module, device: torch.device, run: Run, units: Units = (), place: bool = True
) -> nn.Module:
    """The module on its device, its backbones computing in the run's precision, its blocks as the run asks.

    Frozen networks keep no activations, and so are not checkpointed. Names in the state dict stay as they are, and
    deep copies work; a copy of a compiled network is not compiled. place: put it on the device; not if it is to be
    shared out among ranks. Raises UserError if no blocks are known.
    """
    for part in module.modules():
        if isinstance(part, Preconditioned):
            part.autocast, part.channels_last = autocast_dtype(run.precision, device), run.channels_last
    module = module.to(device) if place else module
    if run.channels_last:
        module = module.to(memory_format=torch.channels_last)
    for option in ("checkpointing", "compile"):
        if getattr(run, option) and not units:
            raise UserError(f"run.{option}: this teacher names no blocks of its networks; leave it out")
    checkpointed = run.checkpointing and any(p.requires_grad for p in module.parameters())
    for parent, name in list(places(module, units)):
        if checkpointed:
            setattr(parent, name, checkpointed_block(getattr(parent, name), run.checkpointing == "selective"))
        if run.compile:
            compile_in_place(getattr(parent, name))
    return module


def checkpointed_block(block: nn.Module, selective: bool) -> nn.Module:
    """A block that keeps its input alone for the backward pass; selective: and what its COSTLY operations give."""
    keep: dict[str, Any] = {}
    if selective:
        keep["context_fn"] = partial(create_selective_checkpoint_contexts, list(COSTLY))
    return checkpoint_wrapper(block, **keep)


def places(module: nn.Module, units: Units) -> Iterator[tuple[nn.Module, str]]:
    """(parent, name) of the blocks in a module, without those that are checkpointed already."""
    for parent in module.modules():
        if not isinstance(parent, CheckpointWrapper):
            yield from ((parent, name) for name, child in parent.named_children() if isinstance(child, units))


def compile_in_place(block: nn.Module) -> None:
    """torch.compile with fixed shapes; each block keeps what is compiled for it apart, where torch can."""
    options: dict[str, Any] = {"dynamic": False}
    if "isolate_recompiles" in inspect.signature(torch.compile).parameters:
        options |= {"isolate_recompiles": True, "recompile_limit": VARIANTS}
    else:
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, 16 * VARIANTS)
        config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 16 * VARIANTS)
    block.compile(**options)


def store_teacher(module: nn.Module, run: Run) -> None:
    """Store a frozen network in run.teacher_weights, after generator and critic were copied from it; adapters stay.

    Raises UserError for bf16 storage of a network that computes in float32.
    """
    if run.teacher_weights == "fp32":
        return
    if any(isinstance(part, Preconditioned) and part.autocast is None for part in module.modules()):
        raise UserError("run.teacher_weights: bf16 needs run.precision=bf16; the networks of this run are float32")
    for p in module.parameters():
        if not p.requires_grad:
            p.data = p.data.to(torch.bfloat16)
