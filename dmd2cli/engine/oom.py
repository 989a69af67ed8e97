"""Out of memory, answered: how much there was, and what of `run` would have made it fit."""

from __future__ import annotations

import errno
import gc
import re
import sys
import traceback

import torch

from dmd2cli.engine.room import Room, room, size
from dmd2cli.errors import UserError
from dmd2cli.recipe import AnyRecipe, Recipe

SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED", "bad_alloc")
"""What allocators say: CUDA and MPS, a CPU's (Linux, Windows), cuBLAS and cuDNN, C++."""

FIRST = 3
"""Cycles after which all parts of training have been met, unless a later stage brings another."""

OTHERS = 2**30
"""Bytes in use that are no process's worth naming: CUDA keeps some of its own."""

GIVE = "add it to the same command"


def is_oom(err: BaseException) -> bool:
    """Whether memory was short, of whatever device; also where another error was raised from that."""
    found: BaseException | None = err if not isinstance(err, UserError) else None            # it has its answer
    while found is not None:
        if isinstance(found, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(found, RuntimeError) and any(sign in str(found) for sign in SIGNS):
            return True
        if isinstance(found, OSError) and found.errno == errno.ENOMEM:
            return True
        found = found.__cause__
    return False


def answer(
    recipe: AnyRecipe,
    device: torch.device,
    err: BaseException,
    step: int,
    start: int = 0,
    ranks: int = 1,
    shards: int = 1,
) -> UserError:
    """What to tell, in one line. It lets go of what the failed step holds, as far as the error holds it.

    step: the one that failed, counted from 1; 0 = before the first. start: steps done before this process.
    ranks: processes that share the batch. shards: of these, how many share one copy of the weights.
    Planning takes seconds, a minute or two for SDXL; where there can be no plan, half the micro-batch is the answer.
    """
    there = room(device)
    what = f"out of memory {place(recipe, step, start)}: {inventory(there, err)}"
    release(err)
    saved = start > 0 or step > recipe.run.save_every
    return UserError(f"{what}; {advice(recipe, device, there, ranks, shards, saved)}")


def place(recipe: AnyRecipe, step: int, start: int) -> str:
    """At which step, and whether all steps before it had enough."""
    if step <= start:
        return "before the first step"
    cycle = recipe.ttur if isinstance(recipe, Recipe) else 1
    late = step - start > FIRST * cycle
    return f"at step {step}" + (f", after {step - 1 - start} steps that had enough" if late else "")


def inventory(there: Room | None, err: BaseException) -> str:
    """What was in use of what there is, and what was asked for."""
    asked = re.search(r"tried to allocate ([\d.]+) ?(bytes|[KMG]iB|[KMG]B)", str(err), re.IGNORECASE)
    more = f", {amount(float(asked[1]), asked[2])} more asked for" if asked else ""
    if there is None:
        return f"this device does not say how much it has{more}"
    others = f", {size(there.others)} of it by other processes" if there.others > OTHERS else ""
    return f"{share(there.used, there.total)} in use{others}{more}"


def share(part: int, whole: int) -> str:
    """79.1 of 79.6 GiB."""
    number, unit = size(whole).split()
    return f"{part / (2**30 if unit == 'GiB' else 2**20):.{1 if '.' in number else 0}f} of {number} {unit}"


def amount(number: float, unit: str) -> str:
    """A size as an allocator writes it, as we do."""
    return size(int(number * {"b": 1, "k": 2**10, "m": 2**20, "g": 2**30}[unit[0].lower()]))


def release(err: BaseException) -> None:
    """Let go of the tensors in the frames of an error and of those that led to it."""
    found: BaseException | None = err
    while found is not None:
        traceback.clear_frames(found.__traceback__)
        found.__traceback__ = None
        found = found.__cause__ or found.__context__
    gc.collect()
    torch.cuda.empty_cache()                                              # nothing where CUDA is not in use


def advice(
    recipe: AnyRecipe, device: torch.device, there: Room | None, ranks: int, shards: int, saved: bool
) -> str:
    """What to do. saved: the run has a checkpoint, with which not every key of the recipe may change."""
    if there is None or not isinstance(recipe, Recipe):
        return half(recipe, ranks)
    print("out of memory; planning what would have fitted (a minute or two for large networks)", file=sys.stderr)
    try:
        from dmd2cli.engine.fitting import fitting  # a plan imports much that training a network from scratch does not

        return fitting(recipe, device, there, ranks, shards, saved)
    except Exception as why:  # whatever a plan fails with must not hide why the run ended
        reason = str(why).partition("\n")[0] or type(why).__name__
        return f"{half(recipe, ranks)} (there is no plan: {reason})"


def half(recipe: AnyRecipe, ranks: int) -> str:
    """Half the micro-batch, or what else there is."""
    own = recipe.run.batch // ranks
    now = recipe.run.micro_batch or own
    rows = next((rows for rows in range(now // 2, 0, -1) if own % rows == 0), None)
    if rows is not None:
        return f"try `run.micro_batch={rows}`: {GIVE}"
    if isinstance(recipe, Recipe) and not recipe.run.checkpointing:
        return f"try `run.checkpointing=true`: {GIVE}"
    return "the micro-batch is 1 already: take a larger device"
