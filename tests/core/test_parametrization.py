"""One table turns eps, v, flow and EDM networks into clean-sample predictions, exactly."""

import pytest
import torch
from helpers_toy import SCHEDULES

from dmd2cli.core import parametrization, weighting
from dmd2cli.core.noise import scales
from dmd2cli.core.objective import denoising, guide

SIGMA_DATA = 0.6
TARGETS = {                                                                    # what a perfect network predicts
    "eps": (parametrization.eps, lambda x, e, a, s: e),
    "v": (parametrization.v, lambda x, e, a, s: a * e - s * x),
    "flow": (parametrization.flow, lambda x, e, a, s: e - x),
    "edm": (
        parametrization.edm(SIGMA_DATA),
        lambda x, e, a, s: (s**2 * x - a * s * SIGMA_DATA**2 * e)
        / (SIGMA_DATA * s * (a**2 * SIGMA_DATA**2 + s**2) ** 0.5),
    ),
}
every_row = pytest.mark.parametrize("row, target", TARGETS.values(), ids=TARGETS)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def draw(schedule, n=64):
    """x, eps, alpha, sigma in float64 at times in [0.02, 0.98]."""
    g = torch.Generator().manual_seed(0)
    x, e = torch.randn(2, n, 3, generator=g, dtype=torch.float64)
    return x, e, *scales(schedule, torch.linspace(0.02, 0.98, n, dtype=torch.float64), x)


@every_schedule
@every_row
def test_a_perfect_network_gives_back_the_clean_sample(row, target, schedule):
    x, e, a, s = draw(schedule)
    c_skip, c_out, _ = row(a, s)
    x_hat = c_skip * (a * x + s * e) + c_out * target(x, e, a, s)
    assert (x_hat - x).abs().max() <= 1e-11


@every_schedule
def test_edm_preconditioning_feeds_unit_variance(schedule):
    _, _, a, s = draw(schedule)
    _, _, c_in = parametrization.edm(SIGMA_DATA)(a, s)
    assert torch.allclose(c_in**2 * (a**2 * SIGMA_DATA**2 + s**2), torch.ones_like(a))


def test_edm_row_is_table_1_of_the_paper_where_alpha_is_1():
    s = torch.tensor([0.002, 0.5, 80.0], dtype=torch.float64)
    total = s**2 + SIGMA_DATA**2
    expected = SIGMA_DATA**2 / total, s * SIGMA_DATA / total.sqrt(), 1 / total.sqrt()
    for found, literal in zip(parametrization.edm(SIGMA_DATA)(torch.ones_like(s), s), expected, strict=True):
        assert torch.allclose(found, literal, rtol=1e-14)


@pytest.mark.parametrize("name", ["v", "flow", "edm"])
def test_pure_noise_is_finite_at_alpha_0(name):
    zero, one = torch.zeros(1), torch.ones(1)
    assert all(torch.isfinite(c).all() for c in TARGETS[name][0](zero, one))


@every_schedule
def test_eps_error_is_snr_times_x_error(schedule):
    x, e, a, s = draw(schedule)
    e_hat = e + 0.1 * torch.sin(x)
    x_hat = (a * x + s * e - s * e_hat) / a
    assert torch.allclose(((e_hat - e) ** 2).mean(), denoising(x_hat, x, weighting.snr(a, s)), rtol=1e-9)


@pytest.mark.parametrize("schedule", [SCHEDULES["flow"], SCHEDULES["flow-shift3"]], ids=["flow", "flow-shift3"])
def test_velocity_error_is_x_error_over_sigma_squared(schedule):
    x, e, a, s = draw(schedule)
    u_hat = e - x + 0.1 * torch.sin(x)
    x_hat = a * x + s * e - s * u_hat
    assert torch.allclose(((u_hat - (e - x)) ** 2).mean(), denoising(x_hat, x, weighting.flow(a, s)), rtol=1e-9)


@every_schedule
def test_edm_weight_is_unit_weight_on_the_raw_network(schedule):
    _, _, a, s = draw(schedule)
    _, c_out, _ = parametrization.edm(SIGMA_DATA)(a, s)
    assert torch.allclose(weighting.edm(a, s, SIGMA_DATA) * c_out**2, torch.ones_like(a))


def test_min_snr_is_snr_cut_at_gamma():
    a, s = torch.ones(3), torch.tensor([0.1, 1.0, 10.0])
    assert torch.allclose(weighting.min_snr(a, s), torch.tensor([5.0, 1.0, 0.01]))


@every_schedule
def test_guidance_in_eps_is_guidance_in_x(schedule):
    x, e, a, s = draw(schedule)
    x_t, e_null, e_cond = a * x + s * e, e + 0.1 * x, e - 0.2 * torch.cos(x)
    in_eps = (x_t - s * (e_null + 4.0 * (e_cond - e_null))) / a
    in_x = guide((x_t - s * e_null) / a, (x_t - s * e_cond) / a, 4.0)
    assert ((in_eps - in_x).abs() / (1 + in_eps.abs())).max() <= 1e-11
