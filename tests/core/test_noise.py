"""The clock: monotone, invertible, and equal to the published tables."""

import math

import pytest
import torch
from helpers_toy import SCHEDULES

from dmd2cli.core.noise import Discrete, Karras, RectifiedFlow, diffuse, scales

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
GRID = torch.arange(1, 1001, dtype=torch.float64) / 1000


@every_schedule
def test_signal_to_noise_falls_strictly_with_time(schedule):
    alpha, sigma = schedule(GRID)
    assert (torch.diff(alpha / sigma) < 0).all()


@every_schedule
def test_coefficients_are_float64_for_float32_times(schedule):
    alpha, sigma = schedule(torch.rand(5))
    assert alpha.dtype == sigma.dtype == torch.float64


@every_schedule
def test_time_inverts_the_ratio_of_sigma_to_alpha(schedule):
    alpha, sigma = schedule(GRID)
    assert (schedule.time(sigma / alpha) - GRID).abs().max() <= 1e-12


@every_schedule
def test_clock_starts_at_one_and_falls(schedule):
    for steps in (1, 2, 18):
        clock = schedule.clock(steps)
        assert len(clock) == steps and clock[0] == 1 and (torch.diff(clock) < 0).all() and clock.min() >= 0


@every_schedule
def test_pure_noise_has_the_prior_std(schedule):
    """But for Discrete and its rest of signal, sigma(1) is the standard deviation that samplers start from."""
    _, sigma = schedule(torch.ones(1))
    assert math.isclose(sigma.item(), schedule.prior_std, rel_tol=3e-3)


@pytest.mark.parametrize("index, sigma", [(0, 0.002), (999, 80.0), (980, 72.05), (500, 2.527)])
def test_karras_table_of_1000_bins(index, sigma):
    found = Karras()(torch.tensor([index / 999], dtype=torch.float64))[1].item()
    assert math.isclose(found, sigma, rel_tol=2e-4)


@pytest.mark.parametrize("index, expected", [(999, 0.0046601), (749, 0.056623), (499, 0.27767), (249, 0.67543)])
def test_stable_diffusion_table(index, expected):
    assert math.isclose(Discrete.scaled_linear().alphas_cumprod[index].item(), expected, rel_tol=2e-5)


@pytest.mark.parametrize("index, expected", [(0, 0.9999), (499, 0.078587), (999, 4.0358e-05)])
def test_ddpm_table(index, expected):
    assert math.isclose(Discrete.linear().alphas_cumprod[index].item(), expected, rel_tol=2e-5)


def test_tables_equal_a_literal_product_of_one_minus_beta():
    product, table = 1.0, []
    for i in range(1000):
        product *= 1 - (math.sqrt(0.00085) + i / 999 * (math.sqrt(0.012) - math.sqrt(0.00085))) ** 2
        table.append(product)
    expected = torch.tensor(table, dtype=torch.float64)
    assert torch.allclose(Discrete.scaled_linear().alphas_cumprod, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("t, index", [(1.0, 999), (0.75, 749), (0.5, 499), (0.25, 249), (0.4, 399), (0.02, 19)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fractions_of_the_clock_are_the_papers_timesteps(t, index, dtype):
    assert Discrete.scaled_linear().index(torch.tensor([t], dtype=dtype)).item() == index


def test_every_timestep_of_a_table_survives_float32():
    table = Discrete.scaled_linear()
    assert table.index(GRID.float()).tolist() == list(range(1000))


def test_times_before_the_first_timestep_snap_to_it():
    assert Discrete.scaled_linear().index(torch.tensor([0.0, 0.0004])).tolist() == [0, 0]


def test_discrete_time_takes_the_nearest_entry_of_the_table():
    table = Discrete.linear()
    alpha, sigma = table(GRID[[400, 401]])
    low, high = (sigma / alpha).tolist()
    ratios = torch.tensor([low + 0.4 * (high - low), low + 0.6 * (high - low)], dtype=torch.float64)
    assert table.index(table.time(ratios)).tolist() == [400, 401]


def test_flow_is_a_straight_path_from_data_to_noise():
    alpha, sigma = RectifiedFlow()(torch.tensor([0.0, 0.25, 1.0]))
    assert alpha.tolist() == [1.0, 0.75, 0.0] and sigma.tolist() == [0.0, 0.25, 1.0]


def test_flow_shift_moves_the_clock_to_noisier_times():
    _, sigma = RectifiedFlow(3.0)(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    assert sigma.tolist() == [0.0, 0.75, 1.0]                                  # 3 * 0.5 / (1 + 2 * 0.5)


def test_flow_time_accepts_the_infinite_ratio_of_pure_noise():
    assert RectifiedFlow(3.0).time(torch.tensor([math.inf])).item() == 1.0


@every_schedule
@pytest.mark.parametrize("shape", [(2,), (3, 4, 4)])
def test_scales_multiply_samples_of_any_shape(schedule, shape):
    alpha, sigma = scales(schedule, torch.rand(5), torch.zeros(5, *shape))
    assert alpha.shape == sigma.shape == (5,) + (1,) * len(shape)


def test_diffuse_keeps_the_dtype_of_x():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.ones(3, 2, dtype=dtype)
        assert diffuse(x, torch.rand(3), Karras(), torch.ones_like(x)).dtype == dtype
