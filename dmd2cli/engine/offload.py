"""A frozen teacher whose weights wait in the CPU's memory: each block's visit the device while it computes.

diffusers' group offloading and accelerate's cpu_offload do something like it. The first loads weights when `forward` of
the whole network is called, and ours are called by features(), joint() and encode() as well; the second copies from
memory that is not pinned, so that the host waits at every layer. Here two buffers on the device take turns, each as
large as the largest block: while one block computes, the next is copied, and the host waits for neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dmd2cli.engine.runtime import Units
from dmd2cli.errors import UserError
from dmd2cli.recipe import Recipe
from dmd2cli.recipe_yaml import place

ALIGNED = 256
"""Bytes: where a tensor may begin in a buffer."""


def check_offload(recipe: Recipe, world: int = 1) -> None:
    """Raise UserError for a teacher that cannot wait in the CPU's memory."""
    if "teacher" not in recipe.run.offload:
        return
    where = f"{place(recipe.places, 'run.offload')}run.offload: teacher: "
    if recipe.critic.head.reads == "teacher":
        raise UserError(f"{where}gradients go through the teacher that critic.head.reads; leave one of them out")
    if recipe.shared_base:
        raise UserError(f"{where}with shared_base it is the network that student and critic learn on; leave it out")
    if world > 1:
        raise UserError(f"{where}{world} ranks share its weights out already with run.parallel=shard; leave it out")


def offload(module: nn.Module, device: torch.device, units: Units = ()) -> None:
    """Let a frozen network's weights wait in (pinned) CPU memory, and visit the device a block at a time.

    module: anywhere; what is left of it (buffers, weights of its own beside its blocks) is put on the device. units:
    classes of its blocks; layers outside of them come alone. Copies of it are whole networks on the CPU. It must be
    called without gradient. On a CPU nothing changes.
    """
    if device.type != "cpu":
        Visits(module, device, units)


@dataclass
class Slot:
    """A buffer on the device."""

    buffer: Tensor
    group: int | None = None
    """Whose weights it has."""
    copied: Any = None
    """Event: they are there."""
    left: Any = None
    """Event: the last block that used it is done."""


@dataclass
class Group:
    """A block, and its weights one after the other in one piece of the CPU's memory."""

    weights: list[nn.Parameter]
    home: Tensor
    views: list[Tensor] = field(default_factory=list)
    """The weights where they wait."""

    def laid(self, buffer: Tensor) -> list[Tensor]:
        """The weights in a buffer that holds what `home` does."""
        found = zip(self.weights, starts(self.weights), strict=True)
        return [
            buffer[start : start + size(p)].view(p.dtype).as_strided(p.shape, p.stride()) for p, start in found
        ]

    def point(self, views: Sequence[Tensor]) -> None:
        """Make the network compute with these."""
        for p, view in zip(self.weights, views, strict=True):
            p.data = view


class Visits:
    """Wraps the blocks of a network. Which block comes next is what came next the last time."""

    def __init__(self, module: nn.Module, device: torch.device, units: Units) -> None:
        self.device, self.cuda = device, device.type == "cuda"
        blocks = list(parts(module, units))
        owners = Counter(p for block in blocks for p in set(block.parameters()))
        own = [[p for p in dict.fromkeys(block.parameters()) if owners[p] == 1] for block in blocks]
        stay(module, {p for weights in own for p in weights}, device)
        self.groups = [self.waiting(weights) for weights in own]
        most = max(group.home.numel() for group in self.groups)
        self.slots = [Slot(torch.empty(most, dtype=torch.uint8, device=device)) for _ in range(2)]
        self.stream = torch.cuda.Stream(device) if self.cuda else None  # type: ignore[no-untyped-call]
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(device))       # the buffers may be memory still in use
        self.after, self.last = dict[int, int](), 0
        for i, block in enumerate(blocks):
            inner = block._compiled_call_impl or block._call_impl            # around a compiled block, not inside it
            block._compiled_call_impl = partial(self.call, i, inner)

    def waiting(self, weights: list[nn.Parameter]) -> Group:
        """A group, its weights moved to where they wait."""
        total = sum(aligned(size(p)) for p in weights)
        group = Group(weights, torch.empty(total, dtype=torch.uint8, pin_memory=self.cuda))
        group.views = group.laid(group.home)
        for p, view in zip(weights, group.views, strict=True):
            view.copy_(p.data)
        group.point(group.views)
        return group

    def call(self, i: int, inner: Any, *args: Any, **kwargs: Any) -> Any:
        """A block, with its weights on the device meanwhile."""
        given = (x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor))
        if torch.is_grad_enabled() and any(x.requires_grad for x in given):
            raise UserError("run.offload: teacher: a loss differentiates through the teacher; leave it out")
        group, slot = self.groups[i], self.here(i)
        self.after[self.last], self.last = i, i
        try:
            group.point(group.laid(slot.buffer))
            if (following := self.after.get(i)) is not None:
                self.fetch(following, next(other for other in self.slots if other is not slot))
            return inner(*args, **kwargs)
        finally:
            group.point(group.views)
            if self.cuda:
                slot.left = torch.cuda.current_stream(self.device).record_event()

    def here(self, i: int) -> Slot:
        """The buffer with a group's weights; the device's next work waits until they are there."""
        slot = next((slot for slot in self.slots if slot.group == i), None) or self.fetch(i, self.slots[0])
        if slot.copied is not None:
            torch.cuda.current_stream(self.device).wait_event(slot.copied)
        return slot

    def fetch(self, i: int, slot: Slot) -> Slot:
        """Begin to copy a group's weights into a buffer, once what used it is done."""
        if any(other.group == i for other in self.slots):
            return slot
        slot.group, home = i, self.groups[i].home
        with torch.cuda.stream(self.stream):                                 # of None: nothing
            if slot.left is not None:
                self.stream.wait_event(slot.left)  # type: ignore[union-attr]
            slot.buffer[: home.numel()].copy_(home, non_blocking=True)
            slot.copied = self.stream.record_event() if self.stream is not None else None
        return slot


def parts(module: nn.Module, units: Units) -> Iterator[nn.Module]:
    """The blocks of a network, and what has weights outside of them: layers, and what reads those of its children."""
    whole = (*units, nn.MultiheadAttention)
    called = type(module).forward is not nn.Module.forward                   # no ParameterList
    if isinstance(module, whole) or (called and not list(module.children()) and list(module.parameters())):
        yield module
        return
    for child in module.children():
        yield from parts(child, units)


def stay(module: nn.Module, moving: set[nn.Parameter], device: torch.device) -> None:
    """Put what does not wait elsewhere on the device."""
    for p in module.parameters():
        if p not in moving:
            p.data = p.data.to(device)
    for part in module.modules():
        for name, buffer in part._buffers.items():
            part._buffers[name] = buffer if buffer is None else buffer.to(device)


def size(p: Tensor) -> int:
    """Bytes of a dense tensor."""
    return p.numel() * p.element_size()


def aligned(n: int) -> int:
    """The next multiple of ALIGNED."""
    return -(-n // ALIGNED) * ALIGNED


def starts(weights: Sequence[Tensor]) -> list[int]:
    """Where each begins in a buffer."""
    return list(accumulate((aligned(size(p)) for p in weights[:-1]), initial=0)) if weights else []
