"""Diversity: a generator term for the spread within conditions that mode-seeking distribution matching loses.

Reverse KL forgives a student that leaves modes out. This term compares how far apart two samples of a condition are
with how far apart two real ones are, and pushes while the student's are nearer. Unlike mode seeking (Mao et al. 2019),
which rewards distance without end, it is zero once the spread is won back. Distances of pixels or latents are blind to
content, and noise is the cheapest way to raise them: distribution matching has to stay the stronger term, and
precision the number to watch. On the digits, without a GAN, weight 0.3 was better than 1: there its gradient at x is a
quarter of that of distribution matching before it takes effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dmd2cli.core.denoiser import without_scale
from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError
from dmd2cli.protocols import Nets, Sample

COMPARED = 2**24
"""Numbers that are compared at once."""

SMALL = 1e-6
"""Model units: real data that is no further apart is all the same."""


@dataclass(frozen=True)
class Diversity:
    """Generator term, max(0, share - r)^2 with r the spread of the samples over that of the real batch.

    Spread: mean distance (root mean square over x, model units) of two different samples of a condition, summed over
    the conditions that have two on both sides; without conditions, all samples are one. Where there is no such
    condition the term is 0: b samples of C classes have b (b - 1) / 2C pairs in the mean, so that a micro-batch wants
    several samples per class, and free text has none. Pairs are those of a micro-batch, and r is noisier, so the push
    a little stronger, in a small one.
    share: of the real spread that is enough; below 1 beside guidance, which narrows on purpose.
    """

    share: float = 1.0

    player: ClassVar = "generator"
    reads_real: ClassVar = True
    pairwise: ClassVar = True

    def __post_init__(self) -> None:
        if self.share <= 0:
            raise UserError(f"share {self.share:g}: must be positive; 1 is the spread of real data")

    def __call__(self, s: Sample, nets: Nets, rng: Rng) -> Tensor:
        assert s.real is not None
        if len(s) < 2:
            raise UserError("diversity: a micro-batch of one has no pair: raise run.micro_batch, or remove the term")
        group, real_group = groups(s)
        own, pairs = spreads(s.x, group, len(s) + len(s.real))
        real, real_pairs = spreads(s.real, real_group, len(s) + len(s.real))
        both = (pairs > 0) & (real_pairs > 0)
        r = (own * both).sum() / (real * both).sum().clamp(min=SMALL)
        return both.any() * (self.share - r).relu().square()


def groups(s: Sample) -> tuple[Int[Tensor, " b"], Int[Tensor, " m"]]:
    """A number below b + m for every sample and every real one, equal where their conditions are."""
    assert s.real is not None
    cond, real_cond = without_scale(s.cond), without_scale(s.real_cond)
    if not cond:
        return s.x.new_zeros(len(s), dtype=torch.long), s.real.new_zeros(len(s.real), dtype=torch.long)
    total = len(s) + len(s.real)
    rows = torch.cat([torch.cat([cond[name], real_cond[name]]).float().view(total, -1) for name in cond], dim=1)
    number = first_equal(rows)
    return number[: len(s)], number[len(s) :]


def first_equal(rows: Float[Tensor, "n k"]) -> Int[Tensor, " n"]:
    """For each row the number of the first that equals it. torch.unique would make the host wait for its result."""
    same = torch.ones(len(rows), len(rows), dtype=torch.bool, device=rows.device)
    for part in torch.split(rows, max(1, COMPARED // len(rows) ** 2), dim=1):
        same &= (part[:, None] == part).all(-1)
    return same.int().argmax(1)


def spreads(x: Float[Tensor, b *d], group: Int[Tensor, " b"], n: int) -> tuple[Tensor, Tensor]:
    """Of n groups: the mean distance over the pairs of each, 0 where there is none, and how many pairs there are."""
    flat = x.flatten(1)
    apart = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist") / flat.shape[1] ** 0.5
    same = (group[:, None] == group) & ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    count = apart.new_zeros(n).index_add(0, group, same.sum(1).to(apart.dtype))           # every pair from both sides
    return apart.new_zeros(n).index_add(0, group, (apart * same).sum(1)) / count.clamp(min=1), count / 2
