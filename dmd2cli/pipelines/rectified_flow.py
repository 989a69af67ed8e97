"""The sampler of rectified flow models with the UNet of Stable Diffusion, such as InstaFlow, as a scheduler."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from torch import Tensor


class RectifiedFlow(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Euler's method for dx = v(x, t) from noise to data in n equal steps (Liu, Gong, Liu 2022).

    The network gives the velocity v = data - noise, and reads N (1 - i / n) at step i, N the length of its table.
    """

    order = 1
    init_noise_sigma = 1.0

    config: Any

    @register_to_config                                    # type: ignore[untyped-decorator]
    def __init__(self, num_train_timesteps: int = 1000) -> None:
        """num_train_timesteps: N."""
        self.set_timesteps(1)

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """The times of so many steps."""
        self.steps, table = num_inference_steps, self.config.num_train_timesteps
        self.timesteps = table * (1 - torch.arange(self.steps, device=device) / self.steps)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The network reads x as it is."""
        return sample

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """x + v / n."""
        found = sample + model_output / self.steps
        return SchedulerOutput(prev_sample=found) if return_dict else (found,)
