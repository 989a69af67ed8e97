"""A backbone becomes a denoiser mu(x_t, t, c) -> x_hat: preconditioning, guidance, conditions bound in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dmd2cli.core.noise import NoiseSchedule, scales
from dmd2cli.core.objective import guide
from dmd2cli.core.parametrization import Parametrization

Cond = Mapping[str, Tensor]
"""Conditions of a batch by name, batch first: {"label": (b, classes)}, {"text": (b, n, d), ...}, or {}."""

Denoise = Callable[[Float[Tensor, "b *d"], Float[Tensor, " b"]], Float[Tensor, "b *d"]]
"""(x_t, t) -> x_hat with the condition bound in: all that a sampler sees of a network."""


SCALE = "guidance"
"""Name of the condition that tells a student its guidance scale (b,), where it is conditioned on it."""


def without_scale(cond: Cond) -> Cond:
    """The conditions that a teacher knows."""
    return {name: value for name, value in cond.items() if name != SCALE}


class Denoiser(Protocol):
    """An nn.Module that predicts the clean sample and owns its private clock (c_noise)."""

    def __call__(self, x_t: Float[Tensor, b *d], t: Float[Tensor, " b"], cond: Cond) -> Float[Tensor, b *d]:
        """E[x | x_t] in float32."""

    def features(self, x_t: Float[Tensor, b *d], t: Float[Tensor, " b"], cond: Cond) -> Float[Tensor, "b c *s"]:
        """The bottleneck in float32, computed without the decoder: what a GAN head reads."""


class JointDenoiser(Denoiser, Protocol):
    """A denoiser that can also give both at once."""

    def joint(self, x_t: Tensor, t: Tensor, cond: Cond, n: int) -> tuple[Tensor, Tensor]:
        """x_hat of the first n rows and the features of all rows, from one pass through the encoder."""


class Backbone(Protocol):
    """What Preconditioned asks of a network: an encoder, a decoder, and nothing about noise schedules.

    One with `casts = True` takes float32 and computes in the type of its weights, whatever that is.
    """

    def encode(self, x: Tensor, c_noise: Tensor, cond: Cond) -> tuple[Tensor, ...]:
        """A tuple of batch-first tensors that starts with the bottleneck (b, c, *s)."""

    def decode(self, state: tuple[Tensor, ...]) -> Tensor:
        """The raw prediction F from what encode returned."""

    def taps(self, state: tuple[Tensor, ...]) -> Sequence[Tensor]:
        """The features in what encode returned, from the shallowest to the bottleneck. Only for critic.head.depths."""


class Preconditioned(nn.Module):
    """x_hat = c_skip x_t + c_out F(c_in x_t, c_noise(t), c): any backbone as a Denoiser, one table row each."""

    def __init__(
        self,
        backbone: nn.Module,
        schedule: NoiseSchedule,
        parametrization: Parametrization,
        c_noise: Callable[[Tensor], Tensor],
    ) -> None:
        """backbone: a Backbone. c_noise: times (b,) -> what the backbone takes as its own time (b,)."""
        super().__init__()
        self.backbone, self.schedule = backbone, schedule
        self.parametrization, self.c_noise = parametrization, c_noise
        self.autocast: torch.dtype | None = None
        self.channels_last = False

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self._joint(x_t, t, cond, x_t.shape[0])[0]

    def features(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self._encode(x_t, t, cond, self._coefficients(x_t, t))[0].float()

    def taps(self, x_t: Tensor, t: Tensor, cond: Cond, depths: Sequence[int]) -> list[Tensor]:
        """The features at several depths of the encoder, 0 the shallowest, in float32. IndexError beyond the last."""
        found = self.backbone.taps(self._encode(x_t, t, cond, self._coefficients(x_t, t)))  # type: ignore[operator]
        return [found[depth].float() for depth in depths]

    def joint(self, x_t: Tensor, t: Tensor, cond: Cond, n: int) -> tuple[Tensor, Tensor]:
        """x_hat of the first n rows and the features of all rows, from one pass through the encoder."""
        return self._joint(x_t, t, cond, n)

    def _joint(self, x_t: Tensor, t: Tensor, cond: Cond, n: int) -> tuple[Tensor, Tensor]:
        coefficients = self._coefficients(x_t, t)
        state = self._encode(x_t, t, cond, coefficients)
        c_skip, c_out, _ = (c[:n] for c in coefficients)
        with self._precision(x_t):
            raw = self.backbone.decode(tuple(s[:n] for s in state))  # type: ignore[operator]
        return (c_skip * x_t[:n] + c_out * raw).float(), state[0].float()

    def _encode(self, x_t: Tensor, t: Tensor, cond: Cond, coefficients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with self._precision(x_t):
            x = (coefficients[2] * x_t).float()
            if self.channels_last and x.ndim == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            return self.backbone.encode(x, self.c_noise(t).float(), cond)  # type: ignore[operator]

    def _coefficients(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        return self.parametrization(*scales(self.schedule, t, x_t))

    def _precision(self, x: Tensor) -> AbstractContextManager[None]:
        return torch.autocast(x.device.type, self.autocast) if self.autocast else nullcontext()


def bind(denoiser: Denoiser, cond: Cond) -> Denoise:
    """The denoiser with its condition fixed."""
    return lambda x_t, t: denoiser(x_t, t, cond)


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: how strong, at which times, and how far the result is scaled back.

    scale: one number, or one per sample (b,); 1 is off. interval: times with guidance, all others have none
    (Kynkaanniemi et al. 2024). rescale: share by which the standard deviation of each guided sample is brought back
    to the conditional prediction's, 0 to 1 (Lin et al. 2023, Eq. 15 and 16, applied to x_hat).
    """

    scale: float | Float[Tensor, " b"] = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0

    @property
    def off(self) -> bool:
        return not isinstance(self.scale, Tensor) and self.scale == 1.0

    def __call__(self, x_null: Tensor, x_cond: Tensor, t: Float[Tensor, " b"]) -> Tensor:
        """The guided prediction from the two branches."""
        low, high = self.interval
        high = math.inf if high == 1.0 else high        # a sampler with churn asks for times slightly above 1
        strength = self.scale.to(t) if isinstance(self.scale, Tensor) else t.new_full((), self.scale)
        scale = torch.where((low <= t) & (t <= high), strength, 1.0)
        shape = (-1, *[1] * (x_cond.ndim - 1))
        x = guide(x_null, x_cond, scale.view(shape).to(x_cond.dtype))
        if self.rescale == 0.0:
            return x
        back = (x_cond.flatten(1).std(1) / x.flatten(1).std(1)).view(shape)
        return torch.lerp(x, x * back, self.rescale)


def guided(denoiser: Denoiser, guidance: float | Guidance, cond: Cond, null: Cond) -> Denoise:
    """The denoiser under classifier-free guidance, both branches in one batch; scale 1 is the bare denoiser.

    null: the null condition, as many rows as cond.
    """
    guidance = guidance if isinstance(guidance, Guidance) else Guidance(guidance)
    if guidance.off:
        return bind(denoiser, cond)
    both = {name: torch.cat([null[name], cond[name]]) for name in cond}

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        x_null, x_cond = denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        return guidance(x_null, x_cond, t)

    return denoise
