"""check_sampler: what everything that draws takes for granted of a sampler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass

import torch
from torch import Tensor

from dmd2cli.core.noise import Discrete, Karras, NoiseSchedule, RectifiedFlow
from dmd2cli.core.random import Numbered
from dmd2cli.errors import UserError
from dmd2cli.protocols import Sampler
from dmd2cli.testing.said import every, say
from dmd2cli.testing.setting import ROWS

SCHEDULES = (Karras(), Discrete.linear(), RectifiedFlow())
CLEAN = 0.25
"""What the network of a walk says, whatever it is asked."""


def check_sampler(sampler: Sampler) -> None:
    """Under every schedule: ends at clean data, calls the network nfe times, and draws from its rng alone.

    A schedule that it refuses with a UserError is left out; one of a step, a table and a flow it must take.
    """
    every(CHECKS, sampler)


@dataclass(frozen=True)
class Walk:
    """One call of a sampler: what the network was asked, and what came of it."""

    where: str
    schedule: NoiseSchedule
    given: Tensor
    """The noise before, and after."""
    noise: Tensor
    asked: list[Tensor]
    x: Tensor


def walk(sampler: Sampler, schedule: NoiseSchedule) -> Walk:
    """Draw with a network that always says CLEAN."""
    noise, asked = Numbered(0, range(ROWS)).normal("noise", torch.empty(ROWS, 2, 3)), list[Tensor]()
    given = noise.clone()

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        asked.append(x_t.detach().clone())
        say(x_t.dtype == torch.float32 and t.shape == (ROWS,), "the network must get float32 x_t and t (b,)")
        say((t >= 0).all() and t.isfinite().all(), "times must be finite and not negative")
        return torch.full_like(x_t, CLEAN)

    x = sampler(denoise, schedule, noise, Numbered(0, range(ROWS)))
    return Walk(type(schedule).__name__, schedule, given, noise, asked, x)


def walks(sampler: Sampler) -> Iterator[Walk]:
    """One under each schedule that the sampler takes."""
    yield from (walk(sampler, schedule) for schedule in SCHEDULES if takes(sampler, schedule))


def takes(sampler: Sampler, schedule: NoiseSchedule) -> bool:
    """Whether the sampler runs under a schedule at all."""
    try:
        sampler(lambda x_t, t: 0.5 * x_t, schedule, torch.zeros(1, 2), Numbered(0, range(1)))
    except UserError:
        return False
    return True


def declaration(sampler: Sampler) -> None:
    """It is a frozen dataclass, says its nfe and whether it is deterministic, and takes one schedule at least."""
    kind = "a sampler must be a frozen dataclass whose fields are its options"
    say(is_dataclass(sampler) and sampler.__dataclass_params__.frozen, kind)
    say(isinstance(sampler.deterministic, bool), "deterministic must say whether x is a function of the noise alone")
    taken = any(takes(sampler, schedule) for schedule in SCHEDULES)
    say(taken, "a sampler must take one of the schedules Karras, Discrete and RectifiedFlow")


def clean_end(sampler: Sampler) -> None:
    """It ends at t = 0, with a sample of the noise's shape and type."""
    for one in walks(sampler):
        same = one.x.shape == one.noise.shape and one.x.dtype == one.noise.dtype
        say(same, f"{one.where}: x must have the shape and type of the noise")
        left = float(one.schedule(torch.zeros(1))[1]) if getattr(sampler, "ends_at_table", False) else 0.0
        at_end = torch.allclose(one.x, torch.full_like(one.x, CLEAN), atol=1e-4 + 5 * left)
        said = f"a network that always says {CLEAN} gave {one.x.flatten()[:3]}"
        say(at_end, f"{one.where}: the sampler must end at t = 0: {said}")


def unit_noise(sampler: Sampler) -> None:
    """It takes unit noise, leaves it as it is, and starts from it times the schedule's prior_std."""
    for one in walks(sampler):
        say(one.noise.equal(one.given), f"{one.where}: the sampler changes the noise it was given; work on a copy")
        ratio = float(one.asked[0].std() / one.given.std()) / one.schedule.prior_std if one.asked else 1.0
        said = f"{one.where}: it starts at {ratio:.2g} of the schedule's noise"
        say(0.5 <= ratio <= 2, f"{said}; the noise it gets is unit normal: scale it by schedule.prior_std")


def network_calls(sampler: Sampler) -> None:
    """nfe counts its network calls."""
    for one in walks(sampler):
        saved = int(one.schedule(torch.ones(1))[0] == 0)           # a second-order step from alpha = 0 is first order
        counted = sampler.nfe - saved <= len(one.asked) <= sampler.nfe
        say(counted, f"{one.where}: nfe says {sampler.nfe} network calls per sample, counted {len(one.asked)}")


def draws(sampler: Sampler) -> None:
    """It draws from its rng alone; from none, if it says that it is deterministic."""
    for one in walks(sampler):
        drawn = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            drawn.append(half(sampler, one.schedule, one.noise, Numbered(0, range(ROWS))))
        say(drawn[0].equal(drawn[1]), "a sampler must draw from its rng alone, not from torch's global random state")
        other = half(sampler, one.schedule, one.noise, Numbered(1, range(ROWS)))
        say(drawn[0].equal(other) or not sampler.deterministic, "deterministic is True, but other streams change it")


def rows(sampler: Sampler) -> None:
    """A sample depends on its own noise and streams alone, not on its company in the batch."""
    for one in walks(sampler):
        together = half(sampler, one.schedule, one.noise, Numbered(0, range(ROWS)))
        alone = half(sampler, one.schedule, one.noise[2:3].clone(), Numbered(0, [2]))
        near = torch.allclose(together[2:3], alone, rtol=1e-3, atol=1e-5)
        say(near, f"{one.where}: a sample changes with its company in the batch; draw each row from rng alone")


def half(sampler: Sampler, schedule: NoiseSchedule, noise: Tensor, rng: Numbered) -> Tensor:
    """A sample by a network that halves its input."""
    return sampler(lambda x_t, t: 0.5 * x_t, schedule, noise.clone(), rng)


CHECKS = (declaration, clean_end, unit_noise, network_calls, draws, rows)
