"""How to train on a device: all weights, adapters, or adapters on a shared base; the first that fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dmd2cli.engine.plan.fit import largest, taken
from dmd2cli.engine.plan.memory import lasting, memory
from dmd2cli.errors import UserError
from dmd2cli.recipe import Recipe


@dataclass(frozen=True)
class Way:
    """One way to train."""

    name: str
    checkpointing: bool = False
    lora: bool = False
    shared: bool = False


WAYS = (
    Way("full fine-tune"),
    Way("full fine-tune with checkpointing", checkpointing=True),
    Way("LoRA", checkpointing=True, lora=True),
    Way("LoRA on a shared base", checkpointing=True, lora=True, shared=True),
)
"""In the order in which they are tried: what learns most first."""


@dataclass(frozen=True)
class Choice:
    """A way, at the largest micro-batch that fits, and bytes of the device that it takes then."""

    way: Way
    micro_batch: int
    peak: int


def choose(written: Callable[[Way], Recipe], device: int) -> Choice:
    """The first way that fits a GPU of so many bytes. written: the recipe of a way.

    What a teacher does not offer is left out. Raises UserError, with the smallest that would, if nothing fits.
    """
    refused, tight = list[UserError](), list[tuple[int, Way]]()
    for way in WAYS:
        try:
            recipe = written(way)
            if (least := taken(lasting(recipe, "cuda"), "cuda")) <= device:
                found = memory(recipe, "cuda")
                if rows := largest(found, device, "cuda"):
                    return Choice(way, rows, taken(found.peak(rows), "cuda"))
                least = taken(found.peak(1), "cuda")
        except UserError as err:                            # no layers to adapt, no blocks to checkpoint
            refused.append(err)
        else:
            tight.append((least, way))
    if not tight:
        raise refused[0]
    raise UserError(nothing(written, tight, device))


def nothing(written: Callable[[Way], Recipe], tight: list[tuple[int, Way]], device: int) -> str:
    """What to say if nothing fits. tight: bytes that a way takes at least."""
    _, way = min(tight, key=lambda one: one[0])
    peak = taken(memory(written(way), "cuda").peak(1), "cuda")
    needed = f"the smallest, {way.name} at micro-batch 1, takes {peak / 2**30:.1f} GiB"
    return f"--device-memory: nothing fits {device / 2**30:.1f} GiB: {needed}; take a larger device"
