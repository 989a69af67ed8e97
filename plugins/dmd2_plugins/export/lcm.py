"""diffusers' LCMScheduler made to call a student at exactly the times that it was trained for.

The scheduler has a table of `num_train_timesteps` = M, of which it takes every (M / n)-th timestep, counted from the
end, n being `original_inference_steps`. More steps than n it refuses, and so the pipelines' default of 50.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dmd2_plugins.export.pipeline import SEED
from dmd2cli.core.denoiser import Denoise
from dmd2cli.core.noise import Discrete, NoiseSchedule
from dmd2cli.core.random import Streams
from dmd2cli.errors import UserError
from dmd2cli.protocols import Sampler
from dmd2cli.student import Student

MOST = 49
"""Steps: one less than the pipelines' default."""


def timesteps(student: Student) -> list[int]:
    """The timesteps of its calls: indices into the teacher's table. Raises UserError if there is no table."""
    schedule = student.source.teacher.schedule
    if not isinstance(schedule, Discrete):
        raise UserError("this student's schedule is no table of timesteps, as this format needs; choose safetensors")
    return schedule.index(torch.tensor(student.times, dtype=torch.float64)).tolist()


def stochastic(student: Student) -> bool:
    """Whether fresh noise is drawn between its calls."""
    return len(student.times) > 1 and bool(getattr(student.source.sampler, "stochastic", True))


def scheduler(student: Student) -> Any:
    """An LCMScheduler for its times and no others. Raises UserError for times that it cannot have."""
    import diffusers

    kind: Any = diffusers.LCMScheduler
    steps = timesteps(student)
    last, n = steps[0] + 1, len(steps)
    if len(student.times) > 1 and not stochastic(student):
        raise UserError("diffusers: LCMScheduler draws fresh noise between calls, this student does not; choose lora")
    if last % n or n > MOST or steps != [last - 1 - i * (last // n) for i in range(n)]:
        what = f"the timesteps {', '.join(map(str, steps))} are not evenly spaced down to 0"
        raise UserError(f"diffusers: {what}, as LCMScheduler's are; choose lora or comfyui, which name each of them")
    more = {"original_inference_steps": n, "steps_offset": 1}            # the offset is not read, but warned about
    return kind(**table(student, last), **more)


def table(student: Student, last: int | None = None) -> dict[str, Any]:
    """The configuration of the teacher's table, or of its first entries up to some last one."""
    found = dict(student.contract["details"]["scheduler"])
    schedule = student.source.teacher.schedule
    assert isinstance(schedule, Discrete), "checked"
    if last is None or last == len(schedule.alphas_cumprod):
        return found
    before = torch.cat([torch.ones(1).double(), schedule.alphas_cumprod[: last - 1]])
    betas = (1 - schedule.alphas_cumprod[:last] / before).tolist()
    kept = {"prediction_type": found["prediction_type"]}
    return {**kept, "num_train_timesteps": last, "trained_betas": betas}


class InTurn:
    """Streams that come from one generator in the order of the calls, as those of diffusers' schedulers do."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def normal(self, name: str, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator).to(like.device)


class LikeDiffusers:
    """A sampler that draws the noise between its calls as a pipeline does that is given generator()."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler, self.nfe, self.deterministic = sampler, sampler.nfe, sampler.deterministic

    def __call__(self, denoise: Denoise, schedule: NoiseSchedule, noise: Tensor, rng: Streams) -> Tensor:
        return self.sampler(denoise, schedule, noise, InTurn(generator()))


def generator() -> torch.Generator:
    """The same at every call."""
    return torch.Generator().manual_seed(SEED)
