"""DDIM equals the reference implementation of diffusers on a scaled-linear table."""

import pytest
import torch

from dmd2cli.core.noise import Discrete, scales
from dmd2cli.core.random import Rng
from dmd2cli.samplers.ddim import Ddim

diffusers = pytest.importorskip("diffusers")
NOISE = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def predict(x_t, index):
    """An arbitrary eps network of timestep `index`."""
    return torch.tanh(0.7 * x_t + 0.1 * index) + 0.05 * x_t.roll(1, dims=1)


def reference(table_size, steps):
    # steps divide the table: else diffusers steps to a time that is not on its own grid
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=table_size, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing",
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    x_t = NOISE
    for index in scheduler.timesteps:
        x_t = scheduler.step(predict(x_t, index.item()), index, x_t, eta=0.0).prev_sample
    return x_t


@pytest.mark.parametrize("table_size, steps", [(20, 5), (20, 20), (100, 10), (1000, 50)])
def test_ddim_equals_diffusers(table_size, steps):
    schedule = Discrete.scaled_linear(steps=table_size)

    def denoise(x_t, t):
        alpha, sigma = scales(schedule, t, x_t)
        return (x_t - sigma * predict(x_t, schedule.index(t)[0].item())) / alpha

    found = Ddim(steps)(denoise, schedule, NOISE, Rng(0, 0))
    assert torch.allclose(found, reference(table_size, steps), rtol=1e-5, atol=1e-5)
