"""The error and the slope of a denoiser on Gaussian data, where E[x | x_t] is known."""

import pytest
import torch

from dmd2cli.core import calibration
from dmd2cli.core.noise import Karras, RectifiedFlow, diffuse, scales

MEAN, STD, N = 0.3, 0.7, 20_000
SCHEDULES = {"EDM": (Karras(sigma_max=20.0), 0.6), "flow": (RectifiedFlow(), 0.5)}


def drawn(name):
    """(x, x_t, alpha, sigma) of independent Gaussian values at one noise level."""
    (schedule, time), rng = SCHEDULES[name], torch.Generator().manual_seed(0)
    x = MEAN + STD * torch.randn(N, 2, generator=rng, dtype=torch.float64)
    t = torch.full((N,), time, dtype=torch.float64)
    x_t = diffuse(x, t, schedule, torch.randn(N, 2, generator=rng, dtype=torch.float64))
    return x, x_t, *scales(schedule, t, x)


def best(x_t, alpha, sigma):
    return calibration.linear(x_t, alpha, sigma, torch.tensor(MEAN), torch.tensor(STD**2))


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_posterior_mean_errs_as_the_linear_prediction_and_has_no_slope(name):
    x, x_t, alpha, sigma = drawn(name)
    x_hat = best(x_t, alpha, sigma)
    assert float(calibration.error(x, x_t, x_hat, alpha, sigma)) == pytest.approx(1, abs=1e-3)
    assert float(calibration.slope(x, x_t, x_hat, alpha)) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_one_that_is_told_another_sigma_errs_more_and_has_the_slope_of_the_share_that_it_takes_away(name, factor):
    x, x_t, alpha, sigma = drawn(name)
    right, wrong = best(x_t, alpha, sigma), best(x_t, alpha, factor * sigma)
    share = float(((x_t / alpha - wrong) / (x_t / alpha - right)).median())    # the same for every value
    assert calibration.error(x, x_t, wrong, alpha, sigma) > 1.05
    assert float(calibration.slope(x, x_t, wrong, alpha)) == pytest.approx(1 - 1 / share, abs=0.02)
    assert (share < 1) == (factor < 1)


def test_a_prediction_of_the_noise_read_as_one_of_the_sample_errs_more_than_the_linear_one():
    x, x_t, alpha, sigma = drawn("flow")
    noise = (x_t - alpha * best(x_t, alpha, sigma)) / sigma
    assert calibration.error(x, x_t, noise, alpha, sigma) > 1.5
