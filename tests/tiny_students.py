"""Students of tiny Stable Diffusion pipelines, whose weights are not their teacher's: full, LoRA, at any times."""

from __future__ import annotations

from copy import deepcopy

import torch

from dmd2cli import registry
from dmd2cli.adapters import Adapters
from dmd2cli.core.random import Numbered
from dmd2cli.recipe_parts import Lora
from dmd2cli.samplers.few_step import FewStep
from dmd2cli.source import Source
from dmd2cli.student import Student, contract

FOUR, ONE = (1.0, 0.75, 0.5, 0.25), (0.4,)
RANGE = {"min": 1.0, "max": 8.0, "default": 4.0}


def stirred(module, size, seed=7):
    """Somewhat other weights."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn(p.shape, generator=source))
    return module


def student(model, use, times=FOUR, rank=0, stochastic=True, reads_scale=False, **options):
    """A student of the teacher `use` on the pipeline in the folder `model`. rank: of a LoRA; 0: all weights."""
    teacher, lora = registry.load("teachers", use)(model=model, **options), None
    if rank:
        asked = Lora(rank=rank, alpha=rank / 2, targets=teacher.lora_targets)
        network, lora = Adapters(teacher.denoiser).add("student", asked, (), 0), asked.model_dump()
        stirred(network, 0.1)
    else:
        network = stirred(teacher.guided_network() if reads_scale else deepcopy(teacher.denoiser), 0.05)
    named = {"teacher": {"use": use, "model": model, **options}, "teacher_sampler": {"use": "ddim"}, "metrics": []}
    trained = {"steps": 30, "generator_updates": 6, "weights": "raw"}
    found = contract(teacher, named, FewStep(times, stochastic), RANGE if reads_scale else 8.0, trained, lora)
    scale = RANGE["default"] if reads_scale else 1.0
    source = Source(teacher, network.eval().requires_grad_(False), FewStep(times, stochastic), scale, reads_scale)
    return Student(source, found)


def numbered(monkeypatch, seed, n):
    """Make diffusers' LCMScheduler draw what `dmd2 sample` does for images 0 to n - 1."""
    counts, streams = iter(range(1, 99)), Numbered(seed, range(n))

    def noise(shape, **_):
        return streams.normal(f"renoise/{next(counts)}", torch.empty(shape))

    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", noise)
