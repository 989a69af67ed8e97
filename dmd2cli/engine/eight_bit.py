"""AdamW with moments in 8 bits (Dettmers et al. 2021, arXiv 2110.02861): blocks of 256 values, each with its largest.

The kernel is that of bitsandbytes. Its optimiser class is not used: it waits for the GPU after every parameter, puts
weights in channels-last order into another, and takes no DTensors.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dmd2cli.engine.optimisers import MOMENTS, OneByOne, State, local
from dmd2cli.errors import UserError
from dmd2cli.installation.packages import absent, install
from dmd2cli.installation.problem import problem

BLOCK = 256
"""Values that share a scale: what the kernel has."""

SMALLEST = 4096
"""Parameters (shards of them) with fewer values keep 32-bit moments, as in bitsandbytes: they take no memory, and
norms and biases are those that 8 bits hurt."""

CODE = {"exp_avg": True, "exp_avg_sq": False}
"""Moment -> whether it has a sign."""


@lru_cache
def library() -> Any:
    """bitsandbytes.functional. Raises UserError if it is not installed."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)      # it warns of kernels not used here
    try:
        return importlib.import_module("bitsandbytes.functional")
    except Exception as err:                               # a broken one fails in many ways
        if absent("bitsandbytes"):
            raise UserError(f"run.optimiser: 8bit needs bitsandbytes: {install('bitsandbytes')}") from err
        if told := problem(err):
            raise UserError(f"run.optimiser: 8bit: {told}") from err
        raise


@lru_cache
def values(signed: bool, device: torch.device) -> Tensor:
    """What the 256 codes stand for, as shares of the largest value of a block, rising."""
    found: Tensor = library().create_dynamic_map(signed=signed)
    return found.to(device)


class EightBit(OneByOne):
    """AdamW with 8-bit moments."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, waits: bool = False) -> None:
        library()
        super().__init__(parameters, lr, waits)

    def fresh(self, p: Tensor) -> State:
        n = local(p).numel()
        if n < SMALLEST:
            return super().fresh(p)
        state: State = {"step": 0}
        for name in MOMENTS:
            state[name] = torch.zeros(n, dtype=torch.uint8, device=local(p).device)
            state[f"{name}_scale"] = torch.zeros(-(-n // BLOCK), device=local(p).device)
        return state

    def update(self, p: Tensor, grad: Tensor, state: State, group: Mapping[str, Any]) -> None:
        if state["exp_avg"].dtype != torch.uint8:
            super().update(p, grad, state, group)
            return
        state["step"] += 1
        order, (beta1, beta2) = in_memory(p), group["betas"]
        first, second = (values(CODE[name], p.device) for name in MOMENTS)
        library().optimizer_update_8bit_blockwise(
            "adam", g=grad.permute(order).reshape(-1), p=p.permute(order).view(-1),
            state1=state["exp_avg"], state2=state["exp_avg_sq"], beta1=beta1, beta2=beta2, beta3=0.0, alpha=0.0,
            eps=group["eps"], step=state["step"], lr=group["lr"], qmap1=first, qmap2=second,
            absmax1=state["exp_avg_scale"], absmax2=state["exp_avg_sq_scale"], weight_decay=group["weight_decay"],
        )  # fmt: skip

    def read(self, p: Tensor, state: State) -> dict[str, Tensor]:
        found = super().read(p, state)
        return {name: opened(name, state, local(p)) if v.dtype == torch.uint8 else v for name, v in found.items()}

    def write(self, p: Tensor, found: Mapping[str, Tensor]) -> State:
        mine = local(p).detach()
        if mine.numel() < SMALLEST:
            return super().write(p, found)
        state: State = {"step": int(found["step"])}
        for name in MOMENTS:
            ordered = torch.empty_like(mine, dtype=torch.float32).copy_(local(found[name]))
            flat = ordered.permute(in_memory(mine)).view(-1)
            state[name], state[f"{name}_scale"] = quantised(flat, values(CODE[name], mine.device))
        return self.home(p, state)


def in_memory(x: Tensor) -> list[int]:
    """The dimensions of a tensor from the widest stride to the narrowest: in that order its values lie in a row."""
    return sorted(range(x.ndim), key=x.stride, reverse=True)


def opened(name: str, state: State, p: Tensor) -> Tensor:
    """A moment in float32, of p's shape and memory order, in the CPU's memory."""
    code, scale = state[name].cpu().int(), state[f"{name}_scale"].cpu()
    out = torch.empty_like(p, dtype=torch.float32, device="cpu")
    share = values(CODE[name], torch.device("cpu"))[code]
    out.permute(in_memory(out)).view(-1).copy_(share * scale.repeat_interleave(BLOCK)[: len(share)])
    return out


def quantised(flat: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """(codes, scale of each block) of which the products are nearest to flat (n,); equal if they were such products.

    The largest value of a block is not always its scale: no code stands for -1. A block whose largest value is
    negative was scaled by more, and by how much the code of that value says.
    """
    n, blocks = len(flat), -(-len(flat) // BLOCK)
    x = torch.nn.functional.pad(flat, (0, blocks * BLOCK - n)).view(blocks, BLOCK)
    largest = x.abs().amax(1)
    tried = [largest, *around(largest / code[0].abs())] if code[0] < 0 else [largest]
    codes, scale = nearest(x, largest, code), largest.clone()
    exact = (code[codes] * scale[:, None] == x).all(1)
    for other in tried[1:]:
        found = nearest(x, other, code)
        better = ~exact & (code[found] * other[:, None] == x).all(1)
        codes[better], scale[better], exact = found[better], other[better], exact | better
    return codes.to(torch.uint8).view(-1)[:n].contiguous(), scale


def around(x: Tensor) -> list[Tensor]:
    """Numbers and their neighbours in float32."""
    infinite = torch.full_like(x, torch.inf)
    return [x, torch.nextafter(x, infinite), torch.nextafter(x, -infinite)]


def nearest(x: Tensor, scale: Tensor, code: Tensor) -> Tensor:
    """The code of each value (blocks, BLOCK) of blocks with a scale (blocks,)."""
    share = x / torch.where(scale > 0, scale, 1.0)[:, None]
    return torch.bucketize(share, (code[1:] + code[:-1]) / 2)
