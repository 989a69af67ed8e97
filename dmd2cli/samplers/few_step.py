"""The few-step sampler of a distilled student ([DMD2] Sec. 4.4), which stopped early is backward simulation (4.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmd2cli.core.denoiser import Denoise
from dmd2cli.core.noise import Discrete, NoiseSchedule, diffuse, scales
from dmd2cli.core.random import Streams
from dmd2cli.errors import UserError
from dmd2cli.samplers import ode


def few_step(
    denoise: Denoise,
    schedule: NoiseSchedule,
    noise: Tensor,
    times: Sequence[float],
    rng: Streams,
    stop: int | None = None,
    stochastic: bool = True,
) -> tuple[Tensor, Tensor]:
    """The input (x_t, t) of network call number `stop`, counted from 0; stop = len(times) gives (x, 0).

    x_t is pure noise of prior_std at the first call, whatever its time; after every call the clean prediction
    is noised afresh to the next time, or with stochastic = False by the noise that it implies (DDIM). Training
    calls it with a random stop, inference with none: the same function makes the inputs of both, which is all
    that backward simulation means.
    """
    stop = len(times) if stop is None else stop
    x_t, t = schedule.prior_std * noise, noise.new_full((noise.shape[0],), times[0])
    for k in range(stop):
        x = denoise(x_t, t)
        if k + 1 == len(times):
            return x, torch.zeros_like(t)
        u = torch.full_like(t, times[k + 1])
        if stochastic:
            x_t = diffuse(x, u, schedule, rng.normal(f"renoise/{k + 1}", x))
        else:
            x_t = ode.jump(x_t, x, scales(schedule, t, x), scales(schedule, u, x)).to(x.dtype)
        t = u
    return x_t, t


def check_table(schedule: NoiseSchedule, times: Sequence[float]) -> None:
    """Raise UserError unless every time is a timestep of the schedule's table, if it has one."""
    if not isinstance(schedule, Discrete):
        return
    n = len(schedule.alphas_cumprod)
    if off := [t for t in times if abs(t * n - round(t * n)) > 1e-6 * n or round(t * n) < 1]:
        first = round(times[0] * n) if times[0] != off[0] else n
        steps = [k for k in range(1, 9) if first % k == 0]
        even = f"evenly spaced steps must divide {first} ({', '.join(map(str, steps))}, ...)"
        raise UserError(f"{off[0]:.6g} is between two of the {n} timesteps of this teacher's table; {even}")


@dataclass(frozen=True)
class FewStep:
    """The student's sampler at fixed times, falling in (0, 1]; stochastic: fresh noise between calls, not the ODE's."""

    times: tuple[float, ...] = (1.0,)
    stochastic: bool = True

    def __post_init__(self) -> None:
        if not self.times or list(self.times) != sorted(set(self.times), reverse=True) or self.times[-1] <= 0:
            raise UserError(f"few_step: times must fall strictly and lie in (0, 1], got {list(self.times)}")

    @property
    def nfe(self) -> int:
        return len(self.times)

    @property
    def deterministic(self) -> bool:
        return not self.stochastic or len(self.times) == 1

    def __call__(self, denoise: Denoise, schedule: NoiseSchedule, noise: Tensor, rng: Streams) -> Tensor:
        return few_step(denoise, schedule, noise, self.times, rng, stochastic=self.stochastic)[0]
