"""AdamW in the kernels that run.optimiser names, its moments read and set in one form whatever they are stored in.

Parameters may be DTensors: the two optimisers of ours (8-bit, and moments that wait in the CPU's memory) work on the
shard that a rank has, which for an update that goes element by element is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from dmd2cli.recipe import Run

State = dict[str, Any]
"""Of one parameter, as its optimiser keeps it."""

MOMENTS = ("exp_avg", "exp_avg_sq")


def make(parameters: Iterable[Tensor], run: Run, lr: float) -> Optimizer:
    """AdamW as the run asks. On a CPU, run.offload changes nothing. Raises UserError if 8bit lacks bitsandbytes."""
    found = list(parameters)
    waits = "optimiser" in run.offload and any(local(p).device.type != "cpu" for p in found)
    if run.optimiser == "8bit":
        from dmd2cli.engine.eight_bit import EightBit

        return EightBit(found, lr, waits)
    if waits:
        return OneByOne(found, lr, waits, fused=run.optimiser == "fused")
    return torch.optim.AdamW(found, lr, fused=True) if run.optimiser == "fused" else foreach(found, lr)


def foreach(parameters: list[Tensor], lr: float) -> Optimizer:
    """AdamW in several kernels, each over many parameters."""
    return torch.optim.AdamW(parameters, lr, foreach=True)


def can_skip(optimiser: Optimizer) -> bool:
    """Does a `found_inf` of 1 on it (a 0/1 float tensor on the device) skip a step? Only in the fused kernel."""
    return isinstance(optimiser, torch.optim.AdamW) and bool(optimiser.defaults["fused"])


def moments(optimiser: Optimizer, p: Tensor) -> dict[str, Tensor]:
    """{"step": 0-dim, "exp_avg", "exp_avg_sq": as p} in float32; zeros for a parameter that was never updated.

    The optimiser's own tensors where it keeps them so, read only. Those that are kept in 8 bits or wait in the CPU's
    memory are in the CPU's memory here too, so that reading all of them does not fill the device.
    """
    if not (state := optimiser.state.get(p)):
        none = {name: torch.zeros_like(local(p).detach(), device="cpu") for name in MOMENTS}    # a GPU may be full
        return {"step": torch.zeros(()), **{name: like(p, value) for name, value in none.items()}}
    read = optimiser.read(p, state) if isinstance(optimiser, OneByOne) else {name: state[name] for name in MOMENTS}
    return {"step": torch.as_tensor(state["step"], dtype=torch.float32), **{k: like(p, v) for k, v in read.items()}}


def set_moments(optimiser: Optimizer, p: Tensor, found: Mapping[str, Tensor]) -> None:
    """Continue from what moments() gave, of this or another kind of optimiser. Nothing of `found` is kept."""
    if isinstance(optimiser, OneByOne):
        optimiser.state[p] = optimiser.write(p, found)
        return
    fused, mine = bool(optimiser.defaults["fused"]), p.detach()
    step = found["step"].detach().to("cpu" if not fused else p.device, torch.float32, copy=True)
    kept = {name: torch.empty_like(mine) for name in MOMENTS}                # in the memory order of the parameter
    for name, value in kept.items():
        local(value).copy_(local(found[name]))
    optimiser.state[p] = {"step": step, **kept}


def local(x: Tensor) -> Tensor:
    """What this rank has of a tensor, in the same memory."""
    return x.to_local() if isinstance(x, DTensor) else x


def like(p: Tensor, value: Tensor) -> Tensor:
    """A shard as a DTensor if p is one; also one in the CPU's memory of a parameter on a GPU."""
    if not isinstance(p, DTensor) or isinstance(value, DTensor):
        return value
    return DTensor(value, p._spec, requires_grad=False)


class OneByOne(Optimizer):
    """AdamW one parameter after the other, its moments in the CPU's memory meanwhile if they are to wait there.

    What is on the device beside the weights is one parameter's. Copies go to pinned memory and back in the order of the
    device's work, and nothing waits for them.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, waits: bool, fused: bool = True) -> None:
        super().__init__(parameters, {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01})
        self.waits, self.fused = waits, fused

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not self.state[p]:
                    self.state[p] = self.home(p, self.fresh(p))
                state = self.state[p]
                here = visiting(state, local(p)) if self.waits else state
                self.update(local(p), local(p.grad), here, group)
                if self.waits:
                    leave(here, state)

    def fresh(self, p: Tensor) -> State:
        """The state before the first update, on the device."""
        mine, step = local(p).detach(), torch.zeros((), device=local(p).device if self.fused else "cpu")
        return {"step": step, **{name: torch.zeros_like(mine, dtype=torch.float32) for name in MOMENTS}}

    def update(self, p: Tensor, grad: Tensor, state: State, group: Mapping[str, Any]) -> None:
        """One update of one parameter, in place."""
        beta1, beta2 = group["betas"]
        first, second, step = ([state[name]] for name in (*MOMENTS, "step"))
        rest: dict[str, Any] = {name: group[name] for name in ("lr", "weight_decay", "eps")}
        rest |= {"fused": True} if self.fused else {"foreach": True}
        adamw(
            [p], [grad], first, second, [], step, amsgrad=False, beta1=beta1, beta2=beta2, maximize=False, **rest
        )

    def home(self, p: Tensor, state: State) -> State:
        """A state where it waits: large tensors in the CPU's memory, pinned for a GPU, if that is asked for."""
        if not self.waits:
            return state
        pinned = local(p).is_cuda
        return {name: resting(value, pinned) for name, value in state.items()}

    def read(self, p: Tensor, state: State) -> dict[str, Tensor]:
        """exp_avg and exp_avg_sq of this rank, in the CPU's memory if they wait there."""
        if self.waits and local(p).is_cuda:
            torch.cuda.current_stream(local(p).device).synchronize()         # copies to pinned memory may be under way
        return {name: state[name] for name in MOMENTS}

    def write(self, p: Tensor, found: Mapping[str, Tensor]) -> State:
        """The state of moments that were read, of any kind."""
        state = self.fresh(p)
        for name in ("step", *MOMENTS):
            state[name].copy_(local(found[name]))
        return self.home(p, state)


def resting(value: Any, pinned: bool) -> Any:
    """A tensor of a parameter's size in the CPU's memory, in the same order; steps and their like as they are."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    kept = torch.empty_like(value, device="cpu", pin_memory=pinned)
    return kept.copy_(value)


def visiting(state: State, p: Tensor) -> State:
    """A state that waits elsewhere, copied to where p is."""
    return {
        name: value.to(p.device, non_blocking=True, copy=True) if isinstance(value, Tensor) and value.ndim else value
        for name, value in state.items()
    }


def leave(here: State, state: State) -> None:
    """What has changed during the visit, back to where it waits."""
    for name, value in here.items():
        if isinstance(value, Tensor) and value.ndim:
            state[name].copy_(value, non_blocking=True)
        else:
            state[name] = value
