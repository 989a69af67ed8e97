"""What of `run` makes a recipe fit that did not, by the plan of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from dmd2cli.engine.plan.fit import CONTEXT, Try, attempt, largest, taken, tries, with_run
from dmd2cli.engine.plan.memory import Memory, memory
from dmd2cli.engine.room import Room, size
from dmd2cli.recipe import Recipe

SHARE = 0.9
"""Of what the plan says of a recipe that was too large although, by its plan, it would fit: what is looked for then."""

PROCESS, MALLOC = 2**30, 1.7
"""On a CPU: bytes of Python and its libraries, and what the process holds over what its tensors take. Measured on the
digits: 0.9 GiB and 1.6 to 1.7, because freed memory is kept and convolutions work on copies."""

FIXED = "run.teacher_weights"
"""The one switch among the plan's that a run may not be continued with."""


def fitting(recipe: Recipe, device: torch.device, there: Room, ranks: int, shards: int, saved: bool) -> str:
    """The first switches that make it fit what this process may have of a device, in words; or what it takes at least.

    ranks: processes that share the batch; shards: those that share one copy of the weights. saved: the run has a
    checkpoint. Raises what a plan raises.
    """
    kind = "cuda" if device.type == "cuda" else "cpu"
    own = recipe.run.micro_batch or recipe.run.batch // ranks
    recipe = with_run(recipe, {"micro_batch": own})
    found = spread(memory(recipe, kind), shards)
    now, free = taken(found.peak(own), kind), available(there, kind)
    limit = free if now > free else taken(int(SHARE * found.peak(own)), kind)
    best = ways(recipe, found, limit, kind, ranks, shards)[-1]
    switches = " ".join(o for o in best.overrides if o != f"run.micro_batch={own}")
    planned = f"by its plan this run takes {size(whole(now, kind))}; something else may hold memory; "
    odd = planned if now <= free else ""
    if best.fits and switches:
        how = "to the command, with another -o" if saved and FIXED in switches else "to the same command"
        return f"{odd}`{switches}` would have needed {size(whole(best.peak, kind))}: add it {how}"
    least = f"the least, `{switches}`," if switches else "as it is it"
    takes = f"{least} takes {size(whole(best.peak, kind))}, and {size(whole(free, kind))} are there"
    return f"{odd}nothing in `run` makes it fit: {takes}; take a larger device"


def available(there: Room, kind: str) -> int:
    """Bytes that the plan's numbers may come to, of what other processes leave of the device."""
    if kind == "cuda":
        return there.total - max(0, there.others - CONTEXT)
    return max(0, int((there.total - there.others - PROCESS) / MALLOC))


def whole(peak: int, kind: str) -> int:
    """Bytes of the device that go with a number of the plan."""
    return peak if kind == "cuda" else PROCESS + int(MALLOC * peak)


def ways(recipe: Recipe, found: Memory, limit: int, kind: str, ranks: int, shards: int) -> Sequence[Try]:
    """Ways to run it, the last of them the first that fits, or the smallest. Sharded: by micro-batch alone."""
    if shards == 1:
        return tries(recipe, found, limit, kind, ranks)
    return [attempt({}, largest(found, limit, kind, ranks) or 1, found, limit, kind, said=True)]


def spread(found: Memory, shards: int) -> Memory:
    """The memory of a rank that holds its part of every network."""
    networks = [
        replace(n, weights=n.weights // shards, gradients=n.gradients // shards, moments=n.moments // shards,
                average=n.average // shards)
        for n in found.networks
    ]  # fmt: skip
    return replace(found, networks=networks)
