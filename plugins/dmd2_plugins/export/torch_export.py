"""A torch.export archive: the student's whole sampling loop as one graph that runs without dmd2.

    images = torch.export.load("s.pt2").module()(noise, *conditions, *renoise)    # uint8 (b, 3, h, w)

noise is unit normal (b, *shape). conditions are the encoded ones, by name in the contract: for class labels
one integer tensor `labels` (b,), for a student that reads the guidance scale then `guidance` (b,). renoise holds
one unit-normal tensor (b, *shape) for every network call but the first, unless the student's sampler is the ODE.
The batch is free from 1 on. The contract travels in the archive as dmd2.json, and
OUT.example.safetensors holds inputs with the images they must give.

Of students that read text it is the network alone: see torch_network.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmd2_plugins.export import torch_network
from dmd2_plugins.export.compare import largest_difference
from dmd2_plugins.export.program import archive, program, save_example, shapes
from dmd2cli.core.denoiser import SCALE
from dmd2cli.core.random import Numbered
from dmd2cli.errors import UserError
from dmd2cli.samplers.few_step import few_step
from dmd2cli.student import Student


class Given:
    """Streams that hand out tensors passed in from outside, in the order of the sampler's calls."""

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self.tensors = iter(tensors)

    def normal(self, name: str, like: Tensor) -> Tensor:
        return next(self.tensors)


class Sampling(nn.Module):
    """(noise, labels, guidance, *renoise) -> uint8 images: the few-step sampler around the network, with decoding.

    Without classes there is no `labels`, for a student of one scale no `guidance`, for the ODE no renoise.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        network = deepcopy(student.source.network).cpu().to(memory_format=torch.contiguous_format)
        self.network, self.teacher, self.times = network.eval(), student.source.teacher, student.times
        self.reads_scale, self.stochastic = student.source.reads_scale, stochastic(student)
        every = list(self.teacher.conditions)
        if every and every != list(range(len(every))):
            raise UserError("torch-export: only classes numbered from 0 on can be exported; choose safetensors")
        self.names = list(self.teacher.encode(every)[0]) if every else []
        for name in self.names:
            self.register_buffer(f"table_{name}", self.teacher.encode(every)[0][name])

    def forward(self, noise: Tensor, *given: Tensor) -> Tensor:
        labels, given = (given[0], given[1:]) if self.names else (None, given)
        cond = {name: self.get_buffer(f"table_{name}")[labels] for name in self.names}
        if self.reads_scale:
            cond, given = {**cond, SCALE: given[0]}, given[1:]
        clock = (self.teacher.schedule, noise, self.times, Given(given))
        x, _ = few_step(lambda x_t, t: self.network(x_t, t, cond), *clock, stochastic=self.stochastic)
        return self.teacher.decode(x)


def stochastic(student: Student) -> bool:
    """Whether the student draws fresh noise between its calls."""
    return bool(getattr(student.source.sampler, "stochastic", True))


def inputs(student: Student, n: int, seed: int = 0) -> dict[str, Tensor]:
    """The arguments, in order, that give the images of student(n=n, seed=seed)."""
    like, streams = torch.empty(n, *student.source.teacher.shape), Numbered(seed, range(n))
    labels = [int(c) for c in student.source.conditions(n) if c is not None]
    found = {"noise": streams.normal("noise", like)} | ({"labels": torch.tensor(labels)} if labels else {})
    if student.source.reads_scale:
        found |= {SCALE: torch.full((n,), student.source.guidance)}
    calls = range(1, len(student.times)) if stochastic(student) else range(0)
    return found | {f"renoise_{k}": streams.normal(f"renoise/{k}", like) for k in calls}


def export(student: Student, out: Path) -> Mapping[str, Any]:
    """Write out (.pt2) and its example; the loaded graph must draw the student's own pixels, up to rounding."""
    if conditioned_on_text(student):
        return torch_network.export(student, out)
    example = inputs(student, 16)
    batch = torch.export.Dim("batch", min=1)
    graph = program(Sampling(student), example, batch)
    contract = {**student.contract, "inputs": shapes(example)}
    check, images = inputs(student, 5, seed=1), student(n=5, seed=1)
    with archive(graph, contract, out) as draft:
        drawn = torch.export.load(draft).module()(*check.values())
        difference = largest_difference(drawn, images, out, allowed=1)
    beside = save_example(out, {**check, "images": images})
    return {"file": str(out), "inputs": list(example), "example": beside, "max_pixel_difference": difference}


def conditioned_on_text(student: Student) -> bool:
    """Whether its conditions cannot be listed."""
    teacher = student.source.teacher
    return not teacher.conditions and bool(teacher.encode([])[0])
