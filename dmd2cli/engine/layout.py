"""How the networks of a run are laid over its ranks: what run.parallel says, or what `auto` picks and why."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from dmd2cli.engine.parallel import World
from dmd2cli.engine.runtime import check_layout
from dmd2cli.recipe import Run

SHARE = 0.6
"""Of a device's memory for what lasts: weights, gradients, moments. The rest is for activations."""


def lay_out(
    world: World, run: Run, learners: Iterable[nn.Module], frozen: Iterable[nn.Module], device: torch.device
) -> None:
    """Decide, and say on the first rank what `auto` picked. Raises UserError if the ranks do not fit the recipe."""
    if world.size == 1:
        if run.parallel not in ("auto", "none"):
            print(f"run.parallel={run.parallel}: there is one rank, and nothing to share out", file=sys.stderr)
        return
    mode: str = run.parallel
    why = ""
    if mode == "auto":
        mode, why = picked(world, lasting(learners, frozen), memory(device, world))
    world.lay(mode, run.shard_size, device)
    check_layout(run, world.size if world.mesh is not None else 1)
    if why and world.first:
        print(f"run.parallel: auto -> {mode}: {why}", file=sys.stderr)


def picked(world: World, needed: int, there: int) -> tuple[str, str]:
    """The mode of `auto`, and the reason. needed: bytes of a whole replica; there: of a device."""
    sizes = f"a replica takes {needed / 2**30:.2g} GiB of the {there / 2**30:.3g} GiB of each rank, before activations"
    if needed <= SHARE * there:
        return "replicate", sizes
    if world.size > world.node > 1 and needed / world.node <= SHARE * there:
        return "hybrid", f"{sizes}; sharded within a node, replicated over {world.size // world.node}"
    return "shard", sizes


def lasting(learners: Iterable[nn.Module], frozen: Iterable[nn.Module]) -> int:
    """Bytes of weights, and of the gradients and two moments of those that learn."""
    learned: Mapping[nn.Parameter, int] = {
        p: 4 for module in learners for p in module.parameters() if p.requires_grad
    }
    rest = {p: 1 for module in frozen for p in module.parameters() if p not in learned}
    return sum(times * p.numel() * p.element_size() for p, times in {**learned, **rest}.items())


def memory(device: torch.device, world: World) -> int:
    """Bytes that a rank has: of its GPU, or its share of the node's memory."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // world.node
