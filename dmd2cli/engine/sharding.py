"""Networks over ranks: whole on each, or sharded by FSDP2 on a mesh of (replicate, shard) ranks.

Replicas keep their tensors as they are and average gradients once per update (World.average). The weights are read by
the first rank alone; the others build networks without storage, and each receives what it keeps.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, cast

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from dmd2cli.engine.parallel import World
from dmd2cli.engine.runtime import Units

T = TypeVar("T")
METHODS = ("features", "taps", "joint")
"""What a denoiser is called by besides forward: FSDP has to know, or it would see shards there."""


@contextmanager
def built(world: World) -> Iterator[None]:
    """Networks that are made here have weights on the first rank alone; buffers, which are computed, on all."""
    if world.first:
        yield
        return
    with init_empty_weights(include_buffers=False):
        yield


def place(module: nn.Module, world: World, device: torch.device, units: Units = ()) -> nn.Module:
    """A network on the device, laid over the ranks; the weights are those that the first rank has."""
    if world.size == 1:
        return module.to(device)
    weights = {name: t.contiguous() for name, t in module.state_dict().items()} if world.first else {}
    buffers = {name: buffer.detach().to(device) for name, buffer in module.named_buffers() if not buffer.is_meta}
    module.to_empty(device=torch.device("meta"))
    if world.mesh is not None:
        for p in module.parameters():                      # FSDP2 knows no other memory order; contiguous() may keep
            p.data = torch.empty(p.shape, dtype=p.dtype, device="meta")  # other strides of a dimension of size 1
        lay(module, world, units)
    module.to_empty(device=device)
    for name, buffer in module.named_buffers():
        if name in buffers:
            buffer.copy_(buffers[name])
    set_model_state_dict(module, weights, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    return module


def lay(module: nn.Module, world: World, units: Units) -> None:
    """Hand a network to FSDP2, block by block."""
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")      # not written to
    for block in [*reversed(list(blocks(module, units))), module]:
        fully_shard(block, mesh=world.mesh, reshard_after_forward=True)
    known_by(module, METHODS)


def known_by(module: nn.Module, names: Sequence[str]) -> None:
    """Let FSDP know of methods that a network is called by; one that another of them, or forward, calls is its part."""
    inside = [0]                                           # how deep: 1 is a call from elsewhere
    module.register_forward_pre_hook(lambda *_: inside.__setitem__(0, inside[0] + 1))
    module.register_forward_hook(lambda *_: inside.__setitem__(0, inside[0] - 1), always_call=True)
    for name in (name for name in names if hasattr(module, name)):
        plain = getattr(module, name)
        register_fsdp_forward_method(module, name)
        setattr(module, name, partial(outermost, inside, plain, getattr(module, name)))


def outermost(inside: list[int], plain: Callable[..., T], around: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """A method with FSDP around it, or as it is where that is around a caller already."""
    inside[0] += 1
    try:
        return (around if inside[0] == 1 else plain)(*args, **kwargs)
    finally:
        inside[0] -= 1


def blocks(module: nn.Module, units: Units) -> Iterator[nn.Module]:
    """The blocks in a module, with the checkpoint around them if there is one."""
    for part in module.modules():
        for child in part.children():
            inner = getattr(child, "_checkpoint_wrapped_module", None)
            if isinstance(child if inner is None else inner, units) and not isinstance(part, CheckpointWrapper):
                yield child


def gathered(module: nn.Module) -> dict[str, Tensor]:
    """The whole weights of a network on the CPU: a copy, on the first rank alone if there are several."""
    found: dict[str, Any] = module.state_dict()
    if any(isinstance(p, DTensor) for p in module.parameters()):
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        found = cast(dict[str, Any], get_model_state_dict(module, options=options))
        if all(p.device.type != "cpu" for p in module.parameters()):
            return found                                   # a copy already
    return {name: t.detach().to("cpu", copy=True) for name, t in found.items()}


def local(tensor: Tensor) -> Tensor:
    """What this rank has of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
