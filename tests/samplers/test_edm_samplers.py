"""Heun and churn in (alpha, sigma) are EDM's algorithms where alpha = 1, and second order everywhere."""

import numpy as np
import pytest
import torch
from dmd2_plugins.toy.mixture import Exact, Mixture, mixture
from helpers_toy import SCHEDULES
from literal_edm import algorithm_1, algorithm_2, denoiser, sigmas

from dmd2cli.core.denoiser import bind
from dmd2cli.core.noise import Discrete, Karras, RectifiedFlow
from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError
from dmd2cli.samplers.ddim import Ddim
from dmd2cli.samplers.edm_sde import EdmSde
from dmd2cli.samplers.heun import Heun

RNG = Rng(0, 0)


class Recorded:
    """Streams that remember what they gave."""

    def __init__(self):
        self.draws = []

    def normal(self, name, like):
        self.draws.append(RNG.normal(name, like).to(like.dtype))
        return self.draws[-1]


def unit(n=64):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def relative(found, literal):
    return np.abs(found.numpy() - literal).max() / np.abs(literal).max()


@pytest.mark.parametrize("layout", ["ring8", "grid25"])
def test_heun_is_algorithm_1(layout):
    found = mixture(layout)
    x = Heun(18)(bind(Exact(found, Karras()), {}), Karras(), unit(), RNG)
    literal = algorithm_1(denoiser(found.means.double().numpy(), 0.05), 80.0 * unit().numpy(), sigmas(18, 0.002, 80.0))
    assert relative(x, literal) <= 1e-6


def test_heun_in_float32_stays_near_algorithm_1():
    """Times are float32 then, and a sample near a watershed may fall to the other side: the median is compared."""
    found = mixture("ring8")
    x = Heun(18)(bind(Exact(found, Karras()), {}), Karras(), unit().float(), RNG)
    literal = algorithm_1(denoiser(found.means.double().numpy(), 0.05), 80.0 * unit().numpy(), sigmas(18, 0.002, 80.0))
    assert x.dtype == torch.float32 and np.median(np.abs(x.numpy() - literal)) <= 1e-5


@pytest.mark.parametrize("churn, noise, low, high", [(40.0, 1.003, 0.05, 50.0), (5.0, 1.0, 0.0, float("inf"))])
def test_edm_sde_is_algorithm_2_with_the_same_noises(churn, noise, low, high):
    found, streams = mixture("grid25", std=0.2), Recorded()
    sampler = EdmSde(18, churn, noise, low, high)
    x = sampler(bind(Exact(found, Karras()), {}), Karras(), unit(), streams)
    eps = [draw.numpy() for draw in streams.draws]
    d = denoiser(found.means.double().numpy(), 0.2)
    literal = algorithm_2(d, 80.0 * unit().numpy(), sigmas(18, 0.002, 80.0), eps, churn, noise, low, high)
    assert len(eps) == 18 and relative(x, literal) <= 1e-6


def test_edm_sde_without_churn_is_heun():
    inputs = bind(Exact(mixture(), Karras()), {}), Karras(), unit(), RNG
    assert torch.allclose(EdmSde(18, churn=0.0)(*inputs), Heun(18)(*inputs))


FINE = {"edm": Karras(1e-4, 10.0), "flow": RectifiedFlow(), "flow-shift3": RectifiedFlow(3.0)}


def one_gaussian_error(sampler, schedule):
    """Largest error against the exact solution x_0 = std x_1 / sqrt(std^2 alpha_1^2 + sigma_1^2)."""
    std = 0.5
    alpha, sigma = (c.item() for c in schedule(torch.ones(1)))
    denoise = bind(Exact(Mixture(torch.zeros(1, 2), torch.ones(1), std), schedule), {})
    exact = std * schedule.prior_std * unit() / (std**2 * alpha**2 + sigma**2) ** 0.5
    return (sampler(denoise, schedule, unit(), RNG) - exact).abs().max().item()


@pytest.mark.parametrize("sampler, order", [(Heun, 2.0), (Ddim, 1.0)])
@pytest.mark.parametrize("name", FINE)
def test_order_of_convergence(sampler, order, name):
    coarse, fine = (one_gaussian_error(sampler(steps), FINE[name]) for steps in (64, 128))
    assert abs(np.log2(coarse / fine) - order) <= 0.25


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("sampler", [Heun(18), EdmSde(18), Ddim(50)], ids=["heun", "edm_sde", "ddim"])
def test_the_exact_denoiser_is_sampled_on_every_schedule(sampler, schedule):
    x = sampler(bind(Exact(mixture("ring8", 0.1), schedule), {}), schedule, unit(256), RNG)
    assert torch.isfinite(x).all() and abs(x.norm(dim=1).median().item() - 1) <= 0.1


@pytest.mark.parametrize("sampler", [Heun(18), EdmSde(7), Ddim(11), Heun(1)], ids=repr)
@pytest.mark.parametrize("schedule", [Karras(), Discrete.linear()], ids=["edm", "ddpm"])
def test_nfe_is_the_number_of_calls(sampler, schedule):
    times = []
    denoise = bind(Exact(mixture(), schedule), {})
    sampler(lambda x_t, t: (times.append(t), denoise(x_t, t))[1], schedule, unit(), RNG)
    assert len(times) == sampler.nfe


@pytest.mark.parametrize("sampler", [Heun, EdmSde, Ddim])
def test_no_steps_is_the_users_error(sampler):
    with pytest.raises(UserError, match="steps must be at least 1, got 0"):
        sampler(0)
