"""Noise-image pairs of a recipe's teacher ([DMD] Sec. 3.3): made shard by shard, from what lies in the folder already.

Pair i is a function of the contract and of i: noise of (seed, i), condition i of the prompts in turn, and what the
teacher's deterministic sampler makes of them. So any machine can make any slice, and copying shards into one folder
merges slices. Batches start at multiples of run.micro_batch counted from a multiple of the shard size: slices that
start and end there are equal to the whole set bit for bit on one machine, others to the rounding of the kernels,
which depends on the size of a batch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from dmd2cli.data.pair_files import PAIRS, sampler_facts, teacher_facts
from dmd2cli.engine import build
from dmd2cli.engine.phases import as_dict, check_labels, matching_guidance
from dmd2cli.engine.shard_folder import Made, ShardFolder
from dmd2cli.errors import UserError
from dmd2cli.protocols import Dataset, Raw
from dmd2cli.recipe import Recipe
from dmd2cli.recipe_build import build as plugin
from dmd2cli.recipe_yaml import place
from dmd2cli.source import Source


@dataclass(frozen=True)
class Maker:
    """What makes pair i of i."""

    source: Source
    prompts: Dataset | None
    seed: int
    batch: int
    contract: Mapping[str, Any]

    def conditions(self, numbers: Sequence[int]) -> list[Raw]:
        """The prompts in their own order, again and again; Nones without prompts."""
        if self.prompts is None:
            return [None] * len(numbers)
        return [self.prompts[i % len(self.prompts)].condition for i in numbers]

    def pairs(self, numbers: range) -> tuple[Tensor, Tensor]:
        """(noise, x) of one batch, on the CPU. Raises UserError if a sample is not finite."""
        x = self.source.latents(self.conditions(numbers), self.seed, numbers)
        if not x.isfinite().all():
            raise UserError(f"pairs {numbers[0]} to {numbers[-1]}: a sample is not finite; try run.precision=fp32")
        return self.source.noise(self.seed, numbers).cpu(), x.float().cpu()


def maker(recipe: Recipe, device: torch.device, seed: int, guidance: float | None) -> Maker:
    """The teacher of a recipe as a maker of pairs. guidance: None is that of the recipe's distribution_matching.

    Raises UserError for a sampler that is not deterministic, guidance on an unconditional teacher, or a class that
    the teacher has not.
    """
    sampler = plugin("samplers", recipe.sampler, "sampler")
    if not getattr(sampler, "deterministic", False):
        where = place(recipe.places, "sampler")
        raise UserError(f"{where}sampler: {recipe.sampler.use} adds noise of its own, and pairs must not; use heun")
    found = build.teacher_source(recipe, device)
    scale = (matching_guidance(recipe) or 1.0) if guidance is None else guidance
    if scale != 1.0 and not found.teacher.encode([])[0]:
        raise UserError(f"guidance {scale:g}: this teacher is unconditional; use --guidance 1")
    prompts = plugin("datasets", recipe.data.prompts, "data.prompts") if recipe.data.prompts else None
    check_labels(recipe, found.teacher, prompts)
    contract = {
        "teacher": as_dict(recipe.teacher),
        **teacher_facts(found.teacher),
        "sampler": sampler_facts(recipe.sampler.use, sampler),
        "guidance": scale,
        "seed": seed,
        "prompts": as_dict(recipe.data.prompts) if recipe.data.prompts else None,
    }
    return Maker(replace(found, guidance=scale), prompts, seed, recipe.run.micro_batch or recipe.run.batch, contract)


def make(by: Maker, folder: Path, wanted: range, size: int) -> dict[str, Any]:
    """Make what is missing of the wanted pairs; returns {"out", "n", "made", "shards", "nfe", "seconds"}.

    size: of a shard. Raises KeyboardInterrupt and UserError as ShardFolder.fill does.
    """
    started = time.perf_counter()
    found = ShardFolder(folder, PAIRS, by.contract).fill(wanted, size, by.batch, partial(shard, by), progress)
    cost = {"nfe": by.source.sampler.nfe, "seconds": round(time.perf_counter() - started, 3)}
    return {"out": str(folder), **found, **cost}


def shard(by: Maker, batches: Iterable[range], show: Callable[[int], None]) -> tuple[list[int], Made]:
    """Make the pairs of some batches."""
    numbers, drawn = list[int](), list[tuple[Tensor, Tensor]]()
    for batch in batches:
        drawn.append(by.pairs(batch))
        numbers += batch
        show(len(batch))
    noise, x = (torch.cat(part) for part in zip(*drawn, strict=True))
    return numbers, ({"noise": noise, "x": x}, by.conditions(numbers))


@contextmanager
def progress(total: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar with the time left on a terminal, plain lines elsewhere; all on stderr. Yields what counts them."""
    console, count = Console(stderr=True), [done]

    def line(n: int) -> None:
        count[0] += n
        print(f"pairs {count[0]}/{total}", file=sys.stderr, flush=True)

    if not console.is_terminal:
        yield line
        return
    columns = (TextColumn("pairs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("pairs", total=total, completed=done)
        yield lambda n: bar.advance(task, n)
