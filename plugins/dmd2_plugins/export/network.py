"""A student's network as a function of tensors alone, for programs that run graphs, and such a function as a student.

    prediction = f(sample, timestep, *conditions)

sample is x_t (b, c, h, w), timestep the network's own time (b,), an integer for tables; the prediction is what the base
model predicts: eps, v or flow. The few-step loop around it, text encoders and VAE are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dmd2_plugins.export.pipeline import denoiser
from dmd2cli.adapters import View, merged
from dmd2cli.core.denoiser import SCALE, Cond
from dmd2cli.core.noise import Discrete
from dmd2cli.source import Source
from dmd2cli.student import Student

NAMES = {"text": "encoder_hidden_states", "pooled": "text_embeds", "mask": "encoder_attention_mask"}
"""Conditions by the names that diffusers has for them, where these are others."""
FIXED = ("sample", "timestep")
OUTPUT = "out_sample"


class Network(nn.Module):
    """The backbone of a student, on the CPU, its conditions one by one."""

    def __init__(self, student: Student, conditions: Sequence[str]) -> None:
        """conditions: by our names, in the order that forward takes them."""
        super().__init__()
        network = student.source.network
        copied: Any = merged(network) if isinstance(network, View) else deepcopy(network)
        self.backbone, self.conditions = copied.backbone.cpu().float().eval(), tuple(conditions)

    def forward(self, sample: Tensor, timestep: Tensor, *conditions: Tensor) -> Tensor:
        cond = dict(zip(self.conditions, conditions, strict=True))
        return self.backbone.decode(self.backbone.encode(sample, timestep.float(), cond))


def conditions(student: Student, prompts: Sequence[str]) -> dict[str, Tensor]:
    """The encoded prompts as the student reads them, by our names."""
    source = student.source
    found = {name: value.float().cpu() for name, value in source.teacher.encode(prompts)[0].items()}
    return found | ({SCALE: torch.full((len(prompts),), source.guidance)} if source.reads_scale else {})


def inputs(student: Student, prompts: Sequence[str], seed: int = 0) -> dict[str, Tensor]:
    """Arguments by name, in order: noise, as if at the times of the student in turn."""
    n, schedule = len(prompts), student.source.teacher.schedule
    times = torch.tensor([student.times[i % len(student.times)] for i in range(n)], dtype=torch.float64)
    clock = denoiser(student, nn.Identity()).c_noise(times)
    clock = clock.long() if isinstance(schedule, Discrete) else clock.float()
    found = {"sample": student.source.noise(seed, range(n)).cpu(), "timestep": clock}
    return found | {NAMES.get(name, name): value for name, value in conditions(student, prompts).items()}


class Foreign(nn.Module):
    """A Backbone that is such a function, run elsewhere."""

    def __init__(self, call: Callable[[Mapping[str, Tensor]], Tensor], integer: bool) -> None:
        """call: inputs by name -> prediction. integer: whether timestep is."""
        super().__init__()
        self.call, self.integer, self.names = call, integer, tuple[str, ...]()

    def encode(self, x: Tensor, c_noise: Tensor, cond: Cond) -> tuple[Tensor, ...]:
        """The inputs as they are."""
        self.names = tuple(NAMES.get(name, name) for name in cond)
        return x, c_noise.long() if self.integer else c_noise, *cond.values()

    def decode(self, state: tuple[Tensor, ...]) -> Tensor:
        """The prediction."""
        named = dict(zip((*FIXED, *self.names), (value.cpu() for value in state), strict=True))
        return self.call(named).to(state[0].device)


def through(student: Student, call: Callable[[Mapping[str, Tensor]], Tensor]) -> Source:
    """The student's own sampling around such a function."""
    integer = isinstance(student.source.teacher.schedule, Discrete)
    return replace(student.source, network=denoiser(student, Foreign(call, integer)))
