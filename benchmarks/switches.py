"""The step with switches of `run`, each beside the plain one: what benchmarks/step.py --switches shows."""

from __future__ import annotations

import torch
from cycle_parts import Parts
from edm import forget
from measuring import ratio, spent

from dmd2cli.engine import room, runtime
from dmd2cli.engine.distill import DistillJob, job
from dmd2cli.engine.speed import reset_peak
from dmd2cli.errors import UserError
from dmd2cli.recipe import Recipe, load

SWITCHES = {
    "checkpointing": ["run.checkpointing=true"],
    "selective": ["run.checkpointing=selective"],
    "compile": ["run.compile=true"],
    "channels_last": ["run.channels_last=true"],
    "foreach": ["run.optimiser=foreach"],
    "8bit": ["run.optimiser=8bit"],
    "offload": ["run.offload=[teacher, optimiser]"],
    "offload-optimiser": ["run.offload=[optimiser]"],
    "bf16": ["run.precision=bf16"],
    "fp32": ["run.precision=fp32"],
    "teacher-bf16": ["run.precision=bf16", "run.teacher_weights=bf16"],
    "tf32-off": ["run.precision=fp32", "run.tf32=false"],
}
WARM = 2
"""Cycles before any measurement: compilation, and the first steps of the optimisers."""


class Cycles:
    """The cycles of a job, one after the other."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.work: DistillJob = job(recipe, device)
        self.done = 0

    def __call__(self) -> None:
        """One more."""
        for _ in range(self.work.cycle):
            self.work.step(self.done)
            self.done += 1


def train(recipe: Recipe, device: torch.device, cycles: int) -> dict:
    """Cycles as they are trained, with nothing else in memory: seconds, by part as well, and the peak."""
    made = Cycles(recipe, device)
    warm = spent(lambda: [made() for _ in range(WARM)], device)
    parts = Parts(device)
    reset_peak(device)
    with parts.watching():
        whole = spent(lambda: [made() for _ in range(cycles)], device)
    peak, by_part = room.peak(device), parts.seconds()
    shares = {name: found / cycles for name, found in by_part.items()}
    row = {"cycle_s": whole / cycles, "data_wait_s": parts.wait / cycles, "parts_s": shares, "warm_up_s": warm}
    return {**row, "peak_gib": peak / 2**30 if peak is not None else None}


def in_turn(plain: Recipe, recipe: Recipe, device: torch.device, cycles: int) -> dict:
    """Cycles of both, one after the other, and how they compare."""
    pair = Cycles(plain, device), Cycles(recipe, device)
    rows = [[spent(made, device) for made in pair] for _ in range(cycles + WARM)][WARM:]
    return ratio([row[1] for row in rows], [row[0] for row in rows])


def compared(asked: list[str], name: str, overrides: list[str], device: torch.device, cycles: int) -> dict[str, dict]:
    """The plain step and every switch. On a GPU the ratio is that of the cycles alone: two jobs may not fit."""
    plain, found = load(name, overrides), dict[str, dict]()
    for switch in ["plain", *asked]:
        try:
            recipe = load(name, [*overrides, *SWITCHES.get(switch, [])])
            runtime.set_tf32(recipe.run)
            row = train(recipe, device, cycles)
            forget(device)
            alone = row["cycle_s"] / found.get("plain", row)["cycle_s"]
            found[switch] = row | {"to_plain": alone}
            if switch != "plain" and device.type != "cuda":
                pairs = in_turn(plain, recipe, device, cycles)
                found[switch] |= {"to_plain": pairs["median"], "to_plain_quartiles": [pairs["low"], pairs["high"]]}
        except (UserError, torch.OutOfMemoryError) as err:
            if switch == "plain":
                raise
            found[switch] = {"problem": str(err).splitlines()[0]}
        forget(device)
    return found

