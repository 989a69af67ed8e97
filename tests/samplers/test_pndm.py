"""pndm equals the scheduler of diffusers under Stable Diffusion's own configuration."""

from typing import ClassVar

import pytest
import torch
from dmd2_plugins.stable_diffusion.scheduler import LEADING, Pndm, Scheduled
from dmd2_plugins.toy.mixture import Exact, Mixture

from dmd2cli.core.denoiser import bind
from dmd2cli.core.noise import Discrete, Karras, RectifiedFlow, scales
from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError

diffusers = pytest.importorskip("diffusers")
NOISE = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SD = Discrete.scaled_linear()
TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PUBLISHED = {"skip_prk_steps": True, "steps_offset": 1, "set_alpha_to_one": False, "timestep_spacing": "leading"}


def predict(x_t, index):
    """An arbitrary eps network of timestep `index`."""
    return torch.tanh(0.7 * x_t + 0.001 * index) + 0.05 * x_t.roll(1, dims=1)


def denoise(x_t, t):
    """The same network as ours are: it predicts x."""
    alpha, sigma = scales(SD, t, x_t)
    return (x_t - sigma * predict(x_t, SD.index(t)[0].item())) / alpha


def reference(scheduler, steps):
    """The loop of diffusers' pipelines."""
    scheduler.set_timesteps(steps)
    x_t = NOISE * scheduler.init_noise_sigma
    for index in scheduler.timesteps:
        eps = predict(scheduler.scale_model_input(x_t, index), index.item())
        x_t = scheduler.step(eps, index, x_t).prev_sample
    return x_t


@pytest.mark.parametrize("steps", [2, 3, 7, 20, 50])
def test_pndm_equals_diffusers_with_its_published_configuration(steps):
    found = Pndm(steps)(denoise, SD, NOISE, Rng(0, 0))
    literal = reference(diffusers.PNDMScheduler(**TABLE, **PUBLISHED), steps)
    torch.testing.assert_close(found, literal, rtol=1e-5, atol=1e-5)


class EulerDiscrete(Scheduled):
    scheduler: ClassVar = "EulerDiscreteScheduler"


class UniPC(Scheduled):
    scheduler: ClassVar = "UniPCMultistepScheduler"


class DpmSolver(Scheduled):
    scheduler: ClassVar = "DPMSolverMultistepScheduler"


@pytest.mark.parametrize("other", [EulerDiscrete, UniPC, DpmSolver])
def test_another_scheduler_is_its_name(other):
    found = other(20)(denoise, SD, NOISE, Rng(0, 0))
    literal = reference(getattr(diffusers, other.scheduler)(**TABLE, **LEADING), 20)
    torch.testing.assert_close(found, literal.double(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("steps", [2, 3, 50])
def test_nfe_is_the_number_of_calls_at_the_timesteps_of_stable_diffusion(steps):
    called = []
    Pndm(steps)(lambda x_t, t: (called.append(SD.index(t)[0].item()), denoise(x_t, t))[1], SD, NOISE, Rng(0, 0))
    assert len(called) == Pndm(steps).nfe == steps + 1
    gap = 1000 // steps
    assert called == sorted([*range(1, 1 + steps * gap, gap), 1 + (steps - 2) * gap], reverse=True)


def test_the_network_sees_the_type_of_the_noise_and_the_noise_is_left_alone():
    noise, seen = NOISE.float(), []
    given = noise.clone()
    x = Pndm(5)(lambda x_t, t: (seen.append((x_t.dtype, t.shape)), denoise(x_t, t).float())[1], SD, noise, Rng(0, 0))
    assert set(seen) == {(torch.float32, (8,))} and x.dtype == torch.float32 and noise.equal(given)


def test_it_is_a_function_of_the_noise_alone():
    sampler = Pndm(5)
    first = sampler(denoise, SD, NOISE, Rng(0, 0))
    torch.manual_seed(1)
    assert sampler.deterministic and sampler(denoise, SD, NOISE, Rng(1, 1)).equal(first)


def test_it_ends_at_the_first_entry_of_the_table():
    """A network that always says 0.25 leaves the least noise of the table, which the jump to clean data would not."""
    x = Pndm(10)(lambda x_t, t: torch.full_like(x_t, 0.25), SD, NOISE, Rng(0, 0))
    alpha, sigma = (float(c) for c in SD(torch.zeros(())))
    left = (x - alpha * 0.25) / sigma
    assert 0.9 < left.std() < 1.1 and (x - 0.25).abs().max() < 5 * sigma


def test_one_gaussian_is_solved():
    """x_0 = std x_1 / sqrt(std^2 alpha^2 + sigma^2) along the ODE, from the first to the last level that it visits."""
    std, noise = 0.5, NOISE.flatten(1)[:, :2]
    found = Pndm(100)(bind(Exact(Mixture(torch.zeros(1, 2), torch.ones(1), std), SD), {}), SD, noise, Rng(0, 0))
    (a, s), (b, r) = (tuple(float(c) for c in SD(torch.tensor((i + 1) / 1000))) for i in (991, 0))
    exact = noise * ((std**2 * b**2 + r**2) / (std**2 * a**2 + s**2)) ** 0.5
    torch.testing.assert_close(found, exact, rtol=0, atol=2e-3)


@pytest.mark.parametrize("schedule", [Karras(), RectifiedFlow()], ids=["edm", "flow"])
def test_a_schedule_without_a_table_is_refused(schedule):
    with pytest.raises(UserError, match="pndm needs a table of timesteps, .*; use heun"):
        Pndm()(denoise, schedule, NOISE, Rng(0, 0))


@pytest.mark.parametrize("steps, said", [(1, "at least 2, got 1"), (1000, "below the 1000 timesteps, got 1000")])
def test_steps_that_no_table_has_are_the_users_error(steps, said):
    with pytest.raises(UserError, match=f"pndm: steps must be {said}"):
        Pndm(steps)(denoise, SD, NOISE, Rng(0, 0))


def test_the_largest_number_of_steps_works():
    assert Pndm(999)(denoise, SD, NOISE[:1], Rng(0, 0)).isfinite().all()
