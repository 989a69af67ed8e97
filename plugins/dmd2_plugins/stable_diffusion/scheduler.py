"""Schedulers of diffusers as samplers: pndm made [DMD]'s pairs of Stable Diffusion 1.5, euler [DMD2]'s of SDXL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from dmd2cli.core.denoiser import Denoise
from dmd2cli.core.noise import Discrete, NoiseSchedule, exact, scales
from dmd2cli.core.random import Streams
from dmd2cli.errors import UserError
from dmd2cli.samplers import ode

LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
"""Stable Diffusion's published spacing: timesteps 981, 961, ... 1 of 1,000 for 50 steps."""
TRAILING = {"timestep_spacing": "trailing", "prediction_type": "sample"}
"""From the last timestep, 999, 979, ... 19, to clean data; [DMD2]'s pairs of SDXL."""
LEAST = 2**-24
"""alpha^2 of a last timestep that is pure noise, as diffusers has it: its ratio to sigma^2 must be finite."""


@dataclass(frozen=True)
class Scheduled:
    """A deterministic scheduler on schedules that are a table of timesteps.

    steps: what the scheduler's set_timesteps is given. A subclass names the scheduler and is its own registered name.
    """

    steps: int = 50

    ends_at_table: ClassVar[bool] = True
    """Stable Diffusion's published settings end at the table's first entry, whose little noise stays."""
    scheduler: ClassVar[str]
    """Its class in diffusers."""
    settings: ClassVar[Mapping[str, Any]] = LEADING
    """Its configuration besides the table."""
    extra: ClassVar[int] = 0
    """Network calls beyond one a step."""
    least: ClassVar[int] = 2
    """Steps that it can do with."""

    def __post_init__(self) -> None:
        if self.steps < self.least:
            raise UserError(f"{self._name}: steps must be at least {self.least}, got {self.steps}")

    @property
    def nfe(self) -> int:
        return self.steps + self.extra

    @property
    def deterministic(self) -> bool:
        return True

    def __call__(self, denoise: Denoise, schedule: NoiseSchedule, noise: Tensor, rng: Streams) -> Tensor:
        scheduler, n = self._on(schedule)
        x_t = scheduler.init_noise_sigma * ode.start(schedule, noise)
        for index in scheduler.timesteps:
            seen = scheduler.scale_model_input(x_t, index)
            t = noise.new_full((len(noise),), (int(index) + 1) / n)
            alpha, sigma = scales(schedule, t, seen)
            x_hat = ode.call(denoise, seen, t, noise.dtype)
            predicted = x_hat if scheduler.config.prediction_type == "sample" else (seen - alpha * x_hat) / sigma
            x_t = exact(scheduler.step(predicted, index, x_t).prev_sample)
        return x_t.to(noise.dtype)

    @property
    def _name(self) -> str:
        return type(self).__name__.lower()

    def _on(self, schedule: NoiseSchedule) -> tuple[Any, int]:
        """A fresh scheduler, because they have a state, and the length of its table. UserError if there is none."""
        if not isinstance(schedule, Discrete):
            raise UserError(f"{self._name} needs a table of timesteps, and this schedule is no table; use heun")
        table = schedule.alphas_cumprod
        if self.steps >= len(table):
            raise UserError(f"{self._name}: steps must be below the {len(table)} timesteps, got {self.steps}")
        import diffusers

        table = table.clamp(min=LEAST)
        before = table.new_ones(len(table))
        before[1:] = table[:-1]
        betas = (1 - table / before).tolist()
        made = getattr(diffusers, self.scheduler)(len(table), trained_betas=betas, **self.settings)
        made.set_timesteps(self.steps)
        return made, len(table)


class Pndm(Scheduled):
    """PLMS as in Stable Diffusion's published configuration: no Runge-Kutta start, the second timestep called twice.

    Pseudo numerical methods: Liu et al. 2022, Eq. 9 and 12. It ends at the first entry of the table, not at t = 0.
    """

    scheduler = "PNDMScheduler"
    settings = LEADING | {"skip_prk_steps": True, "set_alpha_to_one": False}
    extra = 1


class Euler(Scheduled):
    """Euler's method in sigma / alpha from the last timestep to clean data, which is DDIM (Song et al. 2021)."""

    scheduler = "EulerDiscreteScheduler"
    settings = TRAILING
    ends_at_table = False
    least = 1


class Dpmpp(Scheduled):
    """DPM-Solver++ of second order, multistep (Lu et al. 2022, Alg. 2), from the last timestep to clean data."""

    scheduler = "DPMSolverMultistepScheduler"
    settings = TRAILING | {"algorithm_type": "dpmsolver++", "final_sigmas_type": "zero"}
    ends_at_table = False


class Unipc(Scheduled):
    """UniPC of second order (Zhao et al. 2023, Alg. 5 to 8), from the last timestep to clean data."""

    scheduler = "UniPCMultistepScheduler"
    settings = TRAILING | {"final_sigmas_type": "zero"}
    ends_at_table = False
