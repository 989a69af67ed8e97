"""The plan of a recipe: what it takes and costs, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from operator import or_
from typing import Any

from dmd2cli.engine.plan.cost import CARDS, Card, Cost, cycle, whole
from dmd2cli.engine.plan.fit import largest, sharded, taken, tries
from dmd2cli.engine.plan.memory import Memory, memory
from dmd2cli.engine.plan.networks import dtype
from dmd2cli.engine.runtime import AUTOCAST
from dmd2cli.errors import UserError
from dmd2cli.recipe import Recipe


@dataclass(frozen=True)
class Question:
    """What is asked of a plan. device_memory: bytes. tflops: peak of one GPU, None for those of CARDS.

    efficiency: share of the peak that training reaches. measured_step: mean seconds of a step, instead of both.
    """

    device_memory: int | None = None
    tflops: float | None = None
    efficiency: float = 0.4
    gpus: int = 1
    measured_step: float | None = None

    def __post_init__(self) -> None:
        for name in ("tflops", "efficiency", "gpus", "measured_step"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"--{name.replace('_', '-')} {value:g}: must be above 0")
        if self.efficiency > 1:
            raise UserError(f"--efficiency {self.efficiency:g}: is a share of the peak, at most 1; try 0.4")


def plan(recipe: Recipe, asked: Question) -> dict[str, Any]:
    """JSON values: memory by network and phase, cost of a cycle and of the run, and the answers to what was asked.

    Bytes and floating point operations. Raises UserError for a recipe whose networks cannot be built without weights.
    """
    kind = "cpu" if recipe.run.device == "cpu" else "cuda"
    found = memory(recipe, kind)
    rows = recipe.run.micro_batch or recipe.run.batch
    last, run = found.stages[-1], whole(found.stages)
    left_out: Mapping[str, str] = reduce(or_, (dict(stage.left_out) for _, stage in found.stages))
    facts = {
        "device": kind,
        "precision": next((name for name, kept in AUTOCAST.items() if kept == dtype(recipe, kind)), "fp32"),
        "batch": recipe.run.batch,
        "micro_batch": rows,
        "networks": [{**asdict(network), "lasting": network.lasting} for network in found.networks],
        "data": found.data,
        "host": sum(network.host for network in found.networks),
        "phases": [asdict(phase) for phase in found.phases(rows)],
        "peak": found.peak(rows),
        "taken": taken(found.peak(rows), kind),
        "compile": recipe.run.compile,
        "undecoded": found.decoding.problem if found.decoding else None,
        "left_out": dict(left_out),
        "cycle": asdict(cycle(*last)),
        "run": {"steps": recipe.run.steps, **asdict(run)},
        "gpus": asked.gpus,
    }
    if asked.device_memory is not None:
        facts["fit"] = fit(recipe, found, asked.device_memory, kind, asked.gpus)
    return facts | {"time": time(recipe, found, run, asked, kind)}


def fit(recipe: Recipe, found: Memory, device: int, kind: str, gpus: int) -> dict[str, Any]:
    """Whether it fits a device of so many bytes, the largest micro-batch that does, and what was tried."""
    made = tries(recipe, found, device, kind, gpus)
    answer = {
        "device_memory": device,
        "fits": made[0].fits,
        "largest_micro_batch": largest(found, device, kind, gpus),
        "tries": [asdict(one) for one in made],
    }
    if made[-1].fits:
        return answer | {"overrides": list(made[-1].overrides)}
    needed = next((n for n in (2, 4, 8, 16, 32, 64) if n >= gpus and sharded(found, n, kind) <= device), None)
    return answer | {"overrides": None, "sharding_over": needed}


def time(recipe: Recipe, found: Memory, run: Cost, asked: Question, kind: str) -> list[dict[str, Any]]:
    """Hours of the run: as measured, at the stated peak, or on every card that is known for the precision."""
    if asked.measured_step is not None:
        seconds = asked.measured_step * recipe.run.steps
        reached = run.flops / seconds / asked.gpus / 1e12
        facts = {"measured_step": asked.measured_step, "hours": seconds / 3600, "tflops_reached": reached}
        return [facts | ({"efficiency": reached / asked.tflops} if asked.tflops else {})]
    given = {"efficiency": asked.efficiency, "gpus": asked.gpus}
    if asked.tflops is not None:
        hours = run.hours(asked.tflops, asked.efficiency, asked.gpus)
        return [{"tflops": asked.tflops, **given, "hours": hours}]
    cards = CARDS if kind == "cuda" and dtype(recipe, kind) is not None else ()
    return [{**on_card(card, found, asked.gpus), **given, "hours": hours_on(card, run, asked)} for card in cards]


def on_card(card: Card, found: Memory, gpus: int) -> dict[str, Any]:
    """Name, peak, memory in bytes, and the largest micro-batch that fits."""
    device = int(card.memory * 2**30)
    rows = largest(found, device, "cuda", gpus)
    return {"card": card.name, "tflops": card.peak, "device_memory": device, "largest_micro_batch": rows}


def hours_on(card: Card, run: Cost, asked: Question) -> float:
    """Of the run."""
    return run.hours(card.peak, asked.efficiency, asked.gpus)
