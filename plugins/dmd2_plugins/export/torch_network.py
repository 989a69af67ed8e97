"""A torch.export archive of the network of a student that reads text; the loop around it is the caller's.

    prediction = torch.export.load("s.pt2").module()(sample, timestep, *conditions)         # as in network.py

The batch is found by torch itself (Dim.AUTO), and the contract says how large it may be: 63 for Stable Diffusion,
because UNets of diffusers branch at 64 when they upsample. Callers split what is larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dmd2_plugins.export import network
from dmd2_plugins.export.compare import difference
from dmd2_plugins.export.pipeline import PROMPTS, drawn, kind, stable
from dmd2_plugins.export.program import archive, largest_batch, program, save_example, shapes
from dmd2cli.errors import UserError
from dmd2cli.student import Student


def export(student: Student, out: Path) -> Mapping[str, Any]:
    """Write out (.pt2) and its example; called by the student's own sampler, it must draw the same pixels."""
    if not stable(student):
        reads = "of students that read text, those of Stable Diffusion 1, 2 and SDXL alone can be exported so far"
        raise UserError(f"torch-export: {reads}, not {kind(student)}; choose safetensors")
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(16)]
    example = network.inputs(student, prompts)
    module = network.Network(student, list(network.conditions(student, PROMPTS)))
    held = program(module, example, torch.export.Dim.AUTO)
    largest = largest_batch(held)
    contract = {**student.contract, "inputs": shapes(example), "output": network.OUTPUT, "batch": [1, largest]}
    check = {name: value[:3] for name, value in example.items()}
    with archive(held, contract, out) as draft:
        graph = torch.export.load(draft).module()
        images = drawn(network.through(student, lambda given: graph(*given.values())))
        found = difference(drawn(student.source), images, out)
        check[network.OUTPUT] = graph(*check.values())
    said = {"file": str(out), "inputs": list(example), "example": save_example(out, check)}
    return {**said, "largest_batch": largest, "max_pixel_difference": found}
