"""Schedules, predictions and the network's clock come from the scheduler's configuration, exactly."""

import diffusers
import pytest
import torch
from dmd2_plugins.stable_diffusion.clock import read

from dmd2cli.core.noise import Discrete, RectifiedFlow
from dmd2cli.errors import UserError

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
LINEAR = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000}


@pytest.mark.parametrize(
    "config",
    [SD, LINEAR, {"beta_schedule": "squaredcos_cap_v2"}, {"trained_betas": [0.1, 0.2, 0.5], "num_train_timesteps": 3}],
    ids=["scaled_linear", "linear", "cosine", "trained"],
)
def test_tables_are_those_of_diffusers(config):
    found = read(config)
    wanted = diffusers.DDPMScheduler(**config).alphas_cumprod.double()
    torch.testing.assert_close(found.schedule.alphas_cumprod, wanted, rtol=1e-4, atol=1e-7)
    assert found.schedule.alphas_cumprod.dtype == torch.float64 and found.prediction == "eps"


def test_the_table_of_stable_diffusion_is_ours_to_the_last_digit():
    assert read(SD).schedule.alphas_cumprod.equal(Discrete.scaled_linear().alphas_cumprod)


def test_zero_terminal_snr_is_that_of_diffusers_and_ends_in_pure_noise():
    config = SD | {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    found = read(config)
    wanted = diffusers.DDIMScheduler(**config).alphas_cumprod.double()
    torch.testing.assert_close(found.schedule.alphas_cumprod, wanted, rtol=1e-4, atol=1e-6)
    assert found.prediction == "v" and found.schedule(torch.ones(1))[0] == 0
    assert found.c_noise(torch.tensor([1.0, 0.75, 0.5, 0.25])).tolist() == [999, 749, 499, 249]


@pytest.mark.parametrize("given", [{}, {"zero_snr": True}])
def test_eps_of_pure_noise_is_refused(given):
    config = SD | ({} if given else {"rescale_betas_zero_snr": True})
    with pytest.raises(UserError, match="epsilon with zero terminal SNR: .*; set teacher.prediction: v"):
        read(config, given)


def test_options_override_the_configuration():
    found = read(SD, {"prediction": "v", "zero_snr": True, "shift": None})
    assert found.prediction == "v" and found.schedule.alphas_cumprod[-1] == 0
    assert read(found.config).schedule.alphas_cumprod.equal(found.schedule.alphas_cumprod)
    assert read(FLOW | {"shift": 3.0}, {"shift": 5.0}).schedule == RectifiedFlow(5.0)
    with pytest.raises(UserError, match="shift: belongs to flow matching"):
        read(SD, {"shift": 5.0})


def test_flow_matching_has_the_times_of_diffusers():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    found = read({**scheduler.config, **FLOW})
    t = torch.linspace(1, 0.001, 1000, dtype=torch.float64)
    torch.testing.assert_close(found.schedule(t)[1], scheduler.sigmas.double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.c_noise(t), scheduler.timesteps.double(), rtol=1e-5, atol=1e-3)
    assert found.prediction == "flow" and read(found.config).schedule == found.schedule


def test_a_shift_that_depends_on_the_size_is_that_of_the_pipeline():
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=calculate_shift(1024))
    sigma = read({**scheduler.config, **FLOW}, tokens=1024).schedule(torch.tensor([1.0, 0.75, 0.5, 0.25]))[1]
    torch.testing.assert_close(sigma, scheduler.sigmas[:-1].double(), rtol=1e-5, atol=1e-6)


def test_flow_settings_of_other_schedulers_count():
    options = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 2.0}
    found = read(diffusers.DPMSolverMultistepScheduler(**options).config)
    assert found.schedule == RectifiedFlow(2.0) and found.prediction == "flow"


def test_weights_are_those_of_the_networks_own_loss():
    """MSE in what a network predicts is the weighted MSE of x_hat."""
    for config in (SD, SD | {"prediction_type": "v_prediction"}, FLOW):
        clock, t = read(config), torch.tensor([0.3])
        alpha, sigma = clock.schedule(t)
        _, c_out, _ = clock.parametrization(alpha, sigma)
        torch.testing.assert_close(clock.weighting(alpha, sigma) * c_out**2, torch.ones_like(alpha))


@pytest.mark.parametrize(
    "config, said",
    [
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler: neither a table of betas nor flow"),
        ({"_class_name": "MyScheduler", "beta_schedule": "linear"}, "MyScheduler: this diffusers has none"),
        (SD | {"prediction_type": "sample"}, "prediction_type sample is not one of epsilon, v_prediction"),
    ],
)
def test_other_schedulers_are_refused_in_a_line(config, said):
    with pytest.raises(UserError, match=said):
        read(config)
