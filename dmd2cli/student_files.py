"""The student artefact: weights and the whole inference contract, in one safetensors file.

    student/model.safetensors    weights; the contract is its metadata, so the file alone is enough
    student/student.json         the same contract for people
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmd2cli import __version__, published
from dmd2cli.adapters import View, as_peft
from dmd2cli.core.noise import Discrete, NoiseSchedule
from dmd2cli.errors import UserError
from dmd2cli.protocols import Teacher
from dmd2cli.samplers.few_step import FewStep
from dmd2cli.weights import read_metadata, save_weights

FORMAT = 1
WEIGHTS, CONTRACT = "model.safetensors", "student.json"


def contract(
    teacher: Teacher,
    named: Mapping[str, Any],
    sampler: FewStep,
    guidance: float | Mapping[str, float],
    trained: Mapping[str, Any],
    lora: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What student.json holds.

    named: the recipe's teacher, teacher_sampler, metrics. lora: rank, alpha and targets of a student that is an
    adapter of the teacher. guidance: the scale that is baked in, or min, max and
    default of a student that reads it. trained: steps, which weights.
    """
    times = sampler.times
    clock = {"use": "few_step", "times": list(times), "stochastic": sampler.stochastic}
    return {
        "format": FORMAT,
        **named,
        "details": dict(teacher.details),
        "shape": list(teacher.shape),
        "conditions": list(teacher.conditions),
        "schedule": type(teacher.schedule).__name__,
        "sampler": {**clock, **native(teacher.schedule, times)},
        "steps": len(times),
        "guidance": guidance if isinstance(guidance, float) else dict(guidance),
        "trained": dict(trained),
        **({"lora": dict(lora)} if lora is not None else {}),
        "dmd2cli": __version__,
    }


def native(schedule: NoiseSchedule, times: Sequence[float]) -> dict[str, list[float]]:
    """The times in the units other tools use: timesteps of a table, and sigma / alpha."""
    t = torch.tensor(times, dtype=torch.float64)
    alpha, sigma = schedule(t)
    ratios = {"sigma_over_alpha": [float(f"{r:.9g}") for r in (sigma / alpha).tolist()]}
    return ratios | ({"timesteps": schedule.index(t).tolist()} if isinstance(schedule, Discrete) else {})


def student_weights(network: nn.Module, tensors: Mapping[str, Tensor] | None = None) -> Mapping[str, Tensor]:
    """The tensors of an artefact: an adapter's by the names that peft writes. tensors: its state dict, if not now's."""
    held = network.state_dict() if tensors is None else tensors
    return {as_peft(name): tensor for name, tensor in held.items()} if isinstance(network, View) else held


def save_student(folder: Path, network: nn.Module, contract: Mapping[str, Any]) -> None:
    """Write the artefact of a network; the old one stays until the new one is whole."""
    write_student(folder, student_weights(network), contract)


def write_student(folder: Path, weights: Mapping[str, Tensor], contract: Mapping[str, Any]) -> None:
    """Write the artefact of weights that student_weights() gave."""
    save_weights(weights, folder / WEIGHTS, {"dmd2_student": json.dumps(contract)})
    draft = folder / f".{CONTRACT}.tmp"
    try:
        draft.write_text(json.dumps(contract, indent=2) + "\n")
        os.replace(draft, folder / CONTRACT)
    finally:
        draft.unlink(missing_ok=True)


def read_contract(path: Path) -> dict[str, Any]:
    """The contract in a weights file. Raises UserError if there is none that is understood."""
    held = read_metadata(path).get("dmd2_student")
    if held is None:
        raise UserError(f"{path}: holds no dmd2 student (no contract in its metadata); give a run folder")
    contract: dict[str, Any] = json.loads(held)
    if contract["format"] > FORMAT:
        raise UserError(f"{path}: student format {contract['format']} is newer than this dmd2; pip install -U dmd2cli")
    return contract


def find(ref: Path) -> Path:
    """The weights file that a reference means. Raises UserError saying what was looked for."""
    for path in (ref, ref / "student" / WEIGHTS, ref / WEIGHTS):
        if path.is_file():
            return path
    if not ref.exists():
        near = difflib.get_close_matches(str(ref), published.names(), n=1)
        other = f"; is it the published student {near[0]}?" if near else ""
        raise UserError(f"{ref}: no such run folder, student folder or safetensors file{other}")
    if (ref / "recipe.yaml").is_file():
        raise UserError(f"{ref}: no student yet; the first comes with the first checkpoint (run.save_every)")
    raise UserError(f"{ref}: not a run folder or a student folder (no {WEIGHTS} in it)")


def newest(runs: Path = Path("runs")) -> Path:
    """The run under `runs` whose student is newest. Raises UserError if there is none."""
    found = [p for p in runs.glob(f"*/student/{WEIGHTS}")]
    if not found:
        raise UserError(f"no run with a student under ./{runs}; name one with --student, or make one with `dmd2 demo`")
    return max(found, key=lambda p: p.stat().st_mtime).parent.parent
