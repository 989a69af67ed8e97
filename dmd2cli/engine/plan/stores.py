"""What the switches of `run` make of the bytes of a network: 8-bit moments, and what waits in the CPU's memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from dmd2cli.engine.eight_bit import BLOCK, SMALLEST
from dmd2cli.engine.offload import aligned, parts, size
from dmd2cli.engine.plan.account import Network
from dmd2cli.engine.runtime import Units
from dmd2cli.recipe import Run


def moments(p: Tensor, run: Run) -> int:
    """Bytes of AdamW's two moments of a parameter."""
    n = p.numel()
    if run.optimiser == "8bit" and n >= SMALLEST:
        return 2 * (n + 4 * -(-n // BLOCK))
    return 8 * n


def learning(network: Network, moving: Sequence[Tensor], run: Run, kind: str) -> Network:
    """A network that learns, with its moments: on a GPU they may wait, and visit it one parameter's at a time."""
    each = [moments(p, run) for p in moving]
    if kind == "cuda" and "optimiser" in run.offload:
        return replace(network, moments=max(each, default=0), host=sum(each))
    return replace(network, moments=sum(each))


def waiting(network: Network, module: nn.Module, units: Units, run: Run, kind: str) -> Network:
    """A frozen teacher: on a GPU its weights may wait, and visit it in two buffers of its largest block."""
    if kind != "cuda" or "teacher" not in run.offload:
        return network
    blocks = [list(block.parameters()) for block in parts(module, units)]
    moved = sum(map(size, {p for block in blocks for p in block}))
    largest = max((sum(aligned(size(p)) for p in block) for block in blocks), default=0)
    return replace(network, weights=network.weights - moved + 2 * largest, host=moved)
