"""What a pre-flight measures: a teacher, clean samples that it should know, and their conditions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from dmd2cli.core.denoiser import Cond, bind
from dmd2cli.core.random import Rng
from dmd2cli.data.base import Batch, Loader
from dmd2cli.engine.preflight.candidates import configured
from dmd2cli.engine.preflight.reading import Reading, finite
from dmd2cli.protocols import Raw, Sampler, Teacher
from dmd2cli.recipe import Recipe

VALUES, FEWEST, MOST = 2**13, 32, 1024
"""Of all samples together, and of their number: 1,024 points of the plane, 128 digits, 32 images."""


@dataclass(frozen=True)
class Subject:
    """Of one recipe. Conditions are those of x, as many rows each."""

    recipe: Recipe
    teacher: Teacher
    sampler: Sampler
    x: Float[Tensor, b *d]
    cond: Cond
    null: Cond
    raw: Sequence[Raw]
    """What was asked for, as a person writes it; of real data, of as many samples."""
    real: bool
    """Whether x is data, and not drawn by the teacher."""
    rows: int
    """Samples that go through a network at once."""

    @property
    def std(self) -> float:
        """Standard deviation of all values of x."""
        return finite(self.x.std())

    def noise(self, stream: str) -> Tensor:
        """Unit normal of x's shape, the same for everyone who asks for this stream."""
        return Rng(self.recipe.run.seed, 0).stream("preflight").normal(stream, self.x)

    def drawn(self, reading: Reading) -> Subject:
        """The same with the samples that a reading of the teacher draws for these conditions, unguided."""
        return replace(self, x=draw(reading, self.sampler, self.noise("draw"), self.cond, self.rows), real=False)


def subject(recipe: Recipe, teacher: Teacher, sampler: Sampler, loader: Loader, samples: int | None) -> Subject:
    """On real data if the recipe has some, else on the teacher's own samples. samples: None for as many as suffice."""
    wanted = samples or max(FEWEST, min(MOST, VALUES // math.prod(teacher.shape)))
    parts = batches(loader, teacher, wanted)
    cond, null, real = ({k: torch.cat([c[k] for c in side])[:wanted] for k in side[0]} for side in sides(parts))
    raw, rows = [one for part in parts for one in part.raw][:wanted], min(wanted, loader.micro_batch)
    found = [part.x for part in parts if part.x is not None]
    if found:
        x = torch.cat(found)[:wanted].float()
        return Subject(recipe, teacher, sampler, x, real, null, raw, True, rows)
    blank = torch.empty(wanted, *teacher.shape, device=loader.device)
    empty = Subject(recipe, teacher, sampler, blank, cond, null, raw, False, rows)
    return empty.drawn(configured(teacher))


def batches(loader: Loader, teacher: Teacher, wanted: int) -> list[Batch]:
    """The first micro-batches of a run, with at least so many rows."""
    found = list[Batch]()
    while (got := sum(map(len, found))) < wanted:
        step, first = divmod(got, loader.batch)
        last = min(first + loader.micro_batch, loader.batch, first + wanted - got)
        found += loader(step, teacher, slice(first, last))
    return found


def sides(parts: Sequence[Batch]) -> tuple[list[Cond], list[Cond], list[Cond]]:
    """(conditions, null conditions, conditions of the real data) of some micro-batches."""
    return [part.cond for part in parts], [part.null for part in parts], [part.real_cond for part in parts]


@torch.no_grad()
def draw(reading: Reading, sampler: Sampler, noise: Tensor, cond: Cond, rows: int) -> Tensor:
    """Samples that a reading of a teacher draws, unguided, so many at once."""
    found, rng = list[Tensor](), Rng(0, 0).stream("preflight/draw")
    for i in range(0, len(noise), rows):
        part = slice(i, i + rows)
        denoise = bind(reading.denoiser, {k: v[part] for k, v in cond.items()})
        found.append(sampler(denoise, reading.schedule, noise[part], rng.at(part, len(noise))))
    return torch.cat(found).float()
