"""Stopped early, the few-step sampler makes exactly the inputs that inference sees ([DMD2] Sec. 4.5)."""

from itertools import pairwise

import pytest
import torch
from helpers_toy import SCHEDULES

from dmd2cli.core.noise import Discrete, Karras, scales
from dmd2cli.core.random import Numbered, Rng
from dmd2cli.errors import UserError
from dmd2cli.samplers.few_step import FewStep, check_table, few_step

TIMES = (1.0, 0.75, 0.5, 0.25)
NOISE = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def student(x_t, t):
    """An arbitrary student."""
    return torch.tanh(x_t) * (1 - 0.5 * t[:, None])


def inference(schedule, rng):
    """(inputs of every call, result) of a whole sampling."""
    inputs = []
    x = FewStep(TIMES)(lambda x_t, t: (inputs.append((x_t, t)), student(x_t, t))[1], schedule, NOISE, rng)
    return inputs, x


@every_schedule
@pytest.mark.parametrize("k", range(4))
def test_backward_simulation_is_a_prefix_of_inference(schedule, k):
    (x_t, t), calls = inference(schedule, Rng(3, 1))[0][k], []
    found_x, found_t = few_step(lambda *a: (calls.append(a), student(*a))[1], schedule, NOISE, TIMES, Rng(3, 1), stop=k)
    assert torch.equal(found_x, x_t) and torch.equal(found_t, t) and len(calls) == k


@every_schedule
def test_the_first_input_is_noise_of_prior_std_at_the_first_time(schedule):
    x_t, t = few_step(student, schedule, NOISE, (0.4,), Rng(0, 0), stop=0)
    assert torch.equal(x_t, schedule.prior_std * NOISE) and torch.equal(t, torch.full((6,), 0.4))


@every_schedule
def test_every_later_input_is_the_clean_prediction_noised_afresh(schedule):
    (x_0, t_0), (x_1, t_1) = inference(schedule, Rng(3, 1))[0][:2]
    alpha, sigma = scales(schedule, t_1, x_1)
    eps = (x_1 - alpha * student(x_0, t_0)) / sigma
    assert torch.allclose(eps.float(), Rng(3, 1).normal("renoise/1", NOISE), atol=1e-4)


def test_the_result_is_the_last_prediction_at_time_0():
    inputs, x = inference(SCHEDULES["edm"], Rng(3, 1))
    found, t = few_step(student, SCHEDULES["edm"], NOISE, TIMES, Rng(3, 1))
    assert torch.equal(x, student(*inputs[-1])) and torch.equal(found, x) and not t.any()


def test_image_i_does_not_know_its_batch():
    whole = FewStep(TIMES)(student, SCHEDULES["edm"], NOISE, Numbered(0, range(6)))
    rest = FewStep(TIMES)(student, SCHEDULES["edm"], NOISE[4:], Numbered(0, range(4, 6)))
    assert torch.equal(whole[4:], rest)


@pytest.mark.parametrize("times", [(), (0.5, 1.0), (1.0, 1.0), (1.0, 0.0)])
def test_times_that_do_not_fall_are_the_users_error(times):
    with pytest.raises(UserError, match="must fall strictly"):
        FewStep(times)


def test_nfe_is_the_number_of_times():
    assert FewStep(TIMES).nfe == 4


@every_schedule
def test_the_ode_moves_along_the_noise_that_the_prediction_implies(schedule):
    inputs, noise = [], NOISE
    FewStep(TIMES, stochastic=False)(lambda *a: (inputs.append(a), student(*a))[1], schedule, noise, Rng(3, 1))
    for (x_t, t), (x_u, u) in pairwise(inputs):
        (alpha, sigma), (beta, rho) = scales(schedule, t, x_t), scales(schedule, u, x_u)
        eps = (x_t - alpha * student(x_t, t)) / sigma
        assert torch.allclose(x_u.double(), beta * student(x_t, t) + rho * eps, atol=1e-5)


@every_schedule
def test_the_ode_draws_nothing_and_backward_simulation_is_its_prefix(schedule):
    whole = FewStep(TIMES, stochastic=False)
    assert whole.deterministic and not FewStep(TIMES).deterministic and FewStep((1.0,)).deterministic
    assert whole(student, schedule, NOISE, Rng(0, 0)).equal(whole(student, schedule, NOISE, Rng(9, 9)))
    seen = []
    whole(lambda *a: (seen.append(a), student(*a))[1], schedule, NOISE, Rng(0, 0))
    x_t, t = few_step(student, schedule, NOISE, TIMES, Rng(0, 0), stop=2, stochastic=False)
    assert x_t.equal(seen[2][0]) and t.equal(seen[2][1])


def test_times_of_a_table_must_be_its_timesteps():
    check_table(Discrete.linear(), (0.999, 0.5, 0.001))
    check_table(Karras(), (1 / 3,))
    for times in ((1.0, 1 / 3), (0.0004,)):
        with pytest.raises(UserError, match=r"between two of the 1000 timesteps .* divide 1000 \(1, 2, 4, 5, 8, ...\)"):
            check_table(Discrete.linear(), times)
