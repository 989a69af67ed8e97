"""Other ways to read a network than the configured one: what else it may predict, what else it may be told."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dmd2cli.core import parametrization
from dmd2cli.core.denoiser import Preconditioned
from dmd2cli.core.noise import Discrete, Karras, NoiseSchedule, RectifiedFlow
from dmd2cli.core.parametrization import Coefficients, Parametrization
from dmd2cli.engine.preflight.reading import Reading
from dmd2cli.protocols import Teacher

FACTORS = (0.25, 0.5, 0.71, 1.41, 2.0, 4.0)
"""Of the noise level that the network is told: other units of sigma, data in [0, 1] for [-1, 1]."""
SIGMA_DATA = (0.5, 1.0)
"""EDM's, and that of data of unit variance, besides the data's own."""
SHIFTS = (1.0, 3.0, 6.0)
"""Of rectified flow: none, SD3's, and that of long sequences."""
SIGMA_MAX = (20.0, 80.0, 160.0)


def configured(teacher: Teacher) -> Reading:
    """As the recipe has it."""
    return Reading("configured", teacher.denoiser, teacher.schedule)  # type: ignore[arg-type]


def candidates(teacher: Teacher, data_std: float) -> list[Reading]:
    """All that differ from the configured reading in one thing, as they would be configured; [] where none are known.

    They share the teacher's weights. data_std: standard deviation of the data, a candidate for EDM's sigma_data.
    """
    network = teacher.denoiser
    if not isinstance(network, Preconditioned):
        return []
    found = [*outputs(network, teacher.schedule, data_std), *told(network, teacher.schedule), *schedules(network)]
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    if all(torch.allclose(a, b, rtol=0.02) for a, b in zip(network.schedule(t), teacher.schedule(t), strict=True)):
        return found
    return [Reading("the schedule of its network", network, network.schedule, "schedule"), *found]


def x0(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """F = x, the clean sample."""
    return torch.zeros_like(alpha), torch.ones_like(alpha), torch.ones_like(alpha)


def outputs(network: Preconditioned, schedule: NoiseSchedule, data_std: float) -> Iterator[Reading]:
    """What the raw output may be: whole rows of the table, with the scaling of the input."""
    rows: dict[str, Parametrization] = {
        "eps": parametrization.eps,
        "v": parametrization.v,
        "x0": x0,
        "flow": parametrization.flow,
        **{f"edm({std:.3g})": parametrization.edm(std) for std in dict.fromkeys((*SIGMA_DATA, round(data_std, 2)))},
    }
    for name, row in rows.items():
        if not same(row, network.parametrization, network.schedule):
            yield Reading(name, with_(network, parametrization=row), schedule, "output")


def same(one: Parametrization, other: Parametrization, schedule: NoiseSchedule) -> bool:
    """Whether two rows of the table are equal to 2 % where the schedule goes: sigma_data 0.75 and 0.7521 are."""
    scales = schedule(torch.linspace(0.1, 0.9, 9, dtype=torch.float64))
    pairs = zip(one(*scales), other(*scales), strict=True)
    return all(torch.allclose(a.expand_as(b), b, rtol=0.02, atol=1e-6) for a, b in pairs)


def told(network: Preconditioned, schedule: NoiseSchedule) -> Iterator[Reading]:
    """Another noise level than the configured one: in the network's own clock alone, or everywhere."""
    own, clock = network.schedule, network.c_noise
    for k in FACTORS:
        yield Reading(f"clock x{k:g}", with_(network, c_noise=then(clock, times(own, k))), schedule, "noise")
    if isinstance(own, Karras):
        for k in FACTORS:
            more = Karras(k * own.sigma_min, k * own.sigma_max, own.rho)
            moved = with_(network, schedule=more, c_noise=then(clock, times(own, k)))
            yield Reading(f"sigma x{k:g}", moved, schedule, "noise")
    if isinstance(own, Discrete):
        n = len(own.alphas_cumprod)
        for off in (-1, 1):
            later = then(clock, lambda t, off=off: (t + off / n).clamp(1 / n, 1))  # type: ignore[misc]
            yield Reading(f"index {off:+d}", with_(network, c_noise=later), schedule, "noise")


def times(schedule: NoiseSchedule, factor: float) -> Callable[[Tensor], Tensor]:
    """Time -> the time at which there is `factor` times the noise, in units of the signal."""

    def found(t: Tensor) -> Tensor:
        alpha, sigma = schedule(t)
        return schedule.time(factor * sigma / alpha).to(t.dtype)

    return found


def then(clock: Callable[[Tensor], Tensor], first: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The clock at other times."""
    return lambda t: clock(first(t))


def schedules(network: Preconditioned) -> Iterator[Reading]:
    """Other schedules of the same kind: the network is told the same time, at which there is another noise."""
    own, found = network.schedule, dict[str, NoiseSchedule]()
    if isinstance(own, Discrete):
        n = len(own.alphas_cumprod)
        first, last = 1 - float(own.alphas_cumprod[0]), 1 - float(own.alphas_cumprod[-1] / own.alphas_cumprod[-2])
        if last < 0.999:                                   # the last beta of a table that ends in pure noise is 1
            found["linear betas"] = Discrete.linear(first, last, n)
            found["scaled_linear betas"] = Discrete.scaled_linear(first, last, n)
        found["scaled_linear betas of Stable Diffusion"] = Discrete.scaled_linear(steps=n)
        found["linear betas 0.00085 to 0.012"] = Discrete.linear(0.00085, 0.012, n)
        found["linear betas of DDPM"] = Discrete.linear(steps=n)
    elif isinstance(own, RectifiedFlow):
        found |= {f"shift {shift:g}": RectifiedFlow(shift) for shift in SHIFTS}
    elif isinstance(own, Karras):
        found |= {f"sigma_max {top:g}": Karras(own.sigma_min, top, own.rho) for top in SIGMA_MAX}
    t, known = torch.linspace(0.1, 1, 10, dtype=torch.float64), [own]
    for name, schedule in found.items():
        if not any(torch.allclose(schedule(t)[1], other(t)[1], rtol=0.02) for other in known):
            known.append(schedule)
            yield Reading(name, with_(network, schedule=schedule), schedule, "schedule")


def with_(network: Preconditioned, **attributes: object) -> Preconditioned:
    """The same network, its weights shared, with something of its wrapping replaced."""
    found = copy.copy(network)
    for name, value in attributes.items():
        setattr(found, name, value)
    return found
