"""Does a recipe fit a card, and if not, what makes it fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dmd2cli.engine.plan.memory import Memory, memory, stored
from dmd2cli.errors import UserError
from dmd2cli.recipe import Recipe

CONTEXT = int(0.6 * 2**30)
"""Bytes that CUDA, its libraries and their kernels take beside what torch allocates."""

FRAGMENTATION = 1.05
"""What torch's allocator holds, over what it has handed out."""

OPTIONS: tuple[tuple[str, Any], ...] = (
    ("checkpointing", True),
    ("teacher_weights", "bf16"),
    ("optimiser", "8bit"),
    ("offload", ("optimiser",)),
    ("offload", ("teacher",)),
)
"""Fields of run that save memory, in the order in which they are tried: what costs a little time first, then precision,
then what waits for copies at every step. What is offloaded adds up."""

STORES = ("optimiser", "offload")
"""Those of OPTIONS that change what is kept where, and nothing that is computed."""

UNITS = {"": 1, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Try:
    """A way to run a recipe: KEY=VALUE overrides, the micro-batch, and bytes at the worst moment on the device."""

    overrides: tuple[str, ...]
    micro_batch: int
    peak: int
    fits: bool


def parse(text: str) -> int:
    """Bytes of "24G", "24GB", "24GiB", "80000M", all of them powers of 1024. Raises UserError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise UserError(f"--device-memory {text}: write a size such as 24G or 80G")
    return int(float(found[1]) * UNITS[found[2].upper()])


def taken(peak: int, kind: str) -> int:
    """Bytes of the device that a peak of torch's allocations takes."""
    return int(peak * FRAGMENTATION) + CONTEXT if kind == "cuda" else peak


def micro_batches(batch: int, gpus: int = 1) -> Iterator[int]:
    """The divisors of what each GPU has of the batch, falling."""
    share = max(1, batch // gpus)
    return (rows for rows in range(share, 0, -1) if batch % rows == 0)


def largest(found: Memory, device: int, kind: str, gpus: int = 1) -> int | None:
    """The largest micro-batch that fits a device of so many bytes, None if not even one sample does."""
    every = micro_batches(found.batch, gpus)
    return next((rows for rows in every if taken(found.peak(rows), kind) <= device), None)


def tries(recipe: Recipe, found: Memory, device: int, kind: str, gpus: int = 1) -> list[Try]:
    """The recipe as it is, then one thing more at a time, up to the first that fits.

    A smaller micro-batch (accumulation) comes first, then OPTIONS, each on top of those before that helped and at the
    largest micro-batch that fits with it, or 1. What the teacher does not offer, or what saves nothing, is left out.
    """
    asked = recipe.run.micro_batch or recipe.run.batch
    made = [attempt({}, asked, found, device, kind)]
    if not made[0].fits:
        made.append(smaller(asked, {}, found, device, kind, gpus))
    helpful = dict[str, Any]()
    for name, value in OPTIONS:
        if made[-1].fits:
            break
        now = helpful.get(name, getattr(recipe.run, name))
        wanted = tuple(dict.fromkeys((*now, *value))) if name == "offload" else value
        if wanted == now:
            continue
        changed = {**helpful, name: wanted}
        try:
            tried = with_run(recipe, changed)
            less = stored(tried, found, kind) if name in STORES else memory(tried, kind)
            one = smaller(asked, changed, less, device, kind, gpus)
        except UserError:                                       # networks without blocks, or float32 ones
            continue
        if one.fits or one.peak < made[-1].peak:
            helpful, found = changed, less
            made.append(one)
    return made


def smaller(asked: int, changed: Mapping[str, Any], found: Memory, device: int, kind: str, gpus: int) -> Try:
    """At the largest micro-batch that fits and is none larger than asked for, or at 1."""
    return attempt(changed, min(asked, largest(found, device, kind, gpus) or 1), found, device, kind, True)


def attempt(
    changed: Mapping[str, Any], rows: int, found: Memory, device: int, kind: str, said: bool = False
) -> Try:
    """One way, and whether it fits. said: its micro-batch is one of the overrides."""
    peak = taken(found.peak(rows), kind)
    overrides = [f"run.micro_batch={rows}"] * said + [f"run.{name}={written(v)}" for name, v in changed.items()]
    return Try(tuple(overrides), rows, peak, peak <= device)


def written(value: Any) -> str:
    """A value of an override."""
    return f"[{','.join(value)}]" if isinstance(value, tuple) else str(value).lower()


def with_run(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with other fields of run."""
    return recipe.model_copy(update={"run": recipe.run.model_copy(update=dict(changes))})


def sharded(found: Memory, gpus: int, kind: str) -> int:
    """Bytes on each of some GPUs if weights, moments, averages and gradients were spread over them, at micro-batch 1.

    An estimate: what is gathered for the block that computes, and what is sent, are not in it.
    """
    spread = sum(n.lasting for n in found.networks)
    worst = max(phase.activations + phase.gradients // gpus for phase in found.phases(1))
    return taken(spread // gpus + found.data + worst, kind)
