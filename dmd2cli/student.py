"""The student artefact: weights and the whole inference contract, in one safetensors file.

    student/model.safetensors    weights; the contract is its metadata, so the file alone is enough
    student/student.json         the same contract for people
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from dmd2cli import __version__, registry
from dmd2cli.adapters import Adapters, View
from dmd2cli.core.noise import Discrete, NoiseSchedule
from dmd2cli.errors import UserError
from dmd2cli.protocols import Raw, Teacher
from dmd2cli.recipe_parts import Lora
from dmd2cli.samplers.few_step import FewStep, check_table
from dmd2cli.source import Source
from dmd2cli.weights import fit_weights, read_metadata, read_weights, save_weights

FORMAT = 1
WEIGHTS, CONTRACT = "model.safetensors", "student.json"


@dataclass(frozen=True)
class Student:
    """A distilled generator, ready to draw. Call it, or use its Source."""

    source: Source
    contract: Mapping[str, Any]
    """student.json: teacher family, network, schedule, sampler with its times, guidance, provenance."""

    @property
    def times(self) -> tuple[float, ...]:
        """The times of its network calls, falling from at most 1."""
        return self._sampler.times

    @property
    def _sampler(self) -> FewStep:
        assert isinstance(self.source.sampler, FewStep)
        return self.source.sampler

    def __call__(
        self,
        labels: Sequence[int] | None = None,
        prompts: Sequence[str] | None = None,
        n: int | None = None,
        seed: int = 0,
    ) -> UInt8[Tensor, "n 3 h w"]:
        """Draw n images (default: one per condition), conditions repeated in turn, image i a function of (seed, i).

        Raises UserError for a label or prompt that the teacher does not know.
        """
        if labels and prompts:
            raise UserError("labels and prompts exclude each other: a student reads one or the other")
        given: list[Raw] = [*(labels or ()), *(prompts or ())]
        count = n if n is not None else len(given) or 1
        raw = [given[i % len(given)] for i in range(count)] if given else self.source.conditions(count)
        return self.source.images(raw, seed)

    def at_steps(self, steps: int) -> Student:
        """The same student with its clock respaced evenly to another number of network calls.

        Raises UserError if the times of so many calls are not timesteps of its teacher's table.
        """
        if steps < 1:
            raise UserError(f"steps must be at least 1, got {steps}")
        times = tuple(self.times[0] * (1 - i / steps) for i in range(steps))
        check_table(self.source.teacher.schedule, times)
        return replace(self, source=replace(self.source, sampler=replace(self._sampler, times=times)))

    def at_guidance(self, scale: float) -> Student:
        """The same student at a guidance scale. Raises UserError for one that it was not trained for."""
        trained = self.contract["guidance"]
        if not isinstance(trained, Mapping):
            if scale not in (1.0, trained):
                fixed = f"this student has guidance {trained:g} baked in"
                raise UserError(f"guidance {scale:g}: {fixed}; leave guidance out")
            return self
        low, high = trained["min"], trained["max"]
        if not low <= scale <= high:
            raise UserError(f"guidance {scale:g}: this student was trained for scales from {low:g} to {high:g}")
        return replace(self, source=replace(self.source, guidance=scale))

    def teacher(self) -> Source:
        """The teacher it was distilled from, with its own sampler, at the guidance scale of the student.

        Raises UserError if its weights are not there.
        """
        use, sampler = dict(self.contract["teacher"]), dict(self.contract["teacher_sampler"])
        teacher: Teacher = registry.load("teachers", use.pop("use"))(**use)
        device = next(self.source.network.parameters()).device
        trained = self.contract["guidance"]
        scale = self.source.guidance if isinstance(trained, Mapping) else trained
        draw = registry.load("samplers", sampler.pop("use"))(**sampler)
        return Source(moved(teacher, device), teacher.denoiser.to(device), draw, scale)

    def to(self, device: torch.device | str) -> Student:
        """Move its network, in place."""
        self.source.network.to(device)
        moved(self.source.teacher, device)
        return self


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


def save_student(folder: Path, network: nn.Module, contract: Mapping[str, Any]) -> None:
    """Write the artefact; the old one stays until the new one is whole."""
    weights = network.weights() if isinstance(network, View) else network.state_dict()
    save_weights(weights, folder / WEIGHTS, {"dmd2_student": json.dumps(contract)})
    draft = folder / f".{CONTRACT}.tmp"
    try:
        draft.write_text(json.dumps(contract, indent=2) + "\n")
        os.replace(draft, folder / CONTRACT)
    finally:
        draft.unlink(missing_ok=True)


def load_student(ref: str | Path, device: torch.device | str = "cpu") -> Student:
    """A student from a run folder, a student folder or a safetensors file that `dmd2` wrote.

    Raises UserError if there is none, or it is damaged, or its teacher family is not installed.
    """
    path = find(Path(ref))
    held = read_metadata(path).get("dmd2_student")
    if held is None:
        raise UserError(f"{path}: holds no dmd2 student (no contract in its metadata); give a run folder")
    contract = json.loads(held)
    if contract["format"] > FORMAT:
        raise UserError(f"{path}: student format {contract['format']} is newer than this dmd2; pip install -U dmd2cli")
    range_, sampler = contract["guidance"], contract["sampler"]
    if contract.get("lora") is not None:
        teacher, network = adapted(contract, path, device)
    else:
        teacher = registry.load("teachers", contract["teacher"]["use"])(skeleton=contract["details"])
        network = skeleton(teacher, isinstance(range_, Mapping)).eval().requires_grad_(False).to(device)
        fit_weights(network, read_weights(path), str(path))
    moved(teacher, device)
    draw = FewStep(tuple(sampler["times"]), sampler.get("stochastic", True))
    if not isinstance(range_, Mapping):
        return Student(Source(teacher, network, draw), contract)
    return Student(Source(teacher, network, draw, range_["default"], reads_scale=True), contract)


def moved(teacher: Teacher, device: torch.device | str) -> Teacher:
    """A teacher with what stands behind its encode and decode on a device."""
    for helper in teacher.helpers:
        helper.to(device)
    return teacher


def adapted(contract: Mapping[str, Any], path: Path, device: torch.device | str) -> tuple[Teacher, nn.Module]:
    """The teacher of a student that is an adapter, with its weights, and the student on it.

    Raises UserError if the teacher is not the one that it was trained on.
    """
    use = dict(contract["teacher"])
    teacher: Teacher = registry.load("teachers", use.pop("use"))(**use)
    if json.loads(json.dumps(dict(teacher.details))) != contract["details"]:
        raise UserError(f"{path}: a LoRA of another base than {contract['teacher']} is now; restore that teacher")
    adapters, lora = Adapters(teacher.denoiser.eval().to(device)), contract["lora"]
    network = adapters.add("student", Lora(**{**lora, "targets": tuple(lora["targets"])}), (), 0)
    network.load(read_weights(path), str(path))
    return replace(teacher, denoiser=View(adapters, None)), network.eval().requires_grad_(False)


def skeleton(teacher: Teacher, reads_scale: bool) -> nn.Module:
    """The network of a student, its weights still to be loaded."""
    if not reads_scale:
        return teacher.network or teacher.denoiser
    assert teacher.guided_network is not None, "a student that reads the scale came from such a network"
    return teacher.guided_network()


def find(ref: Path) -> Path:
    """The weights file that a reference means. Raises UserError saying what was looked for."""
    for path in (ref, ref / "student" / WEIGHTS, ref / WEIGHTS):
        if path.is_file():
            return path
    if not ref.exists():
        raise UserError(f"{ref}: no such run folder, student folder or safetensors file")
    if (ref / "recipe.yaml").is_file():
        raise UserError(f"{ref}: no student yet; the first comes with the first checkpoint (run.save_every)")
    raise UserError(f"{ref}: not a run folder or a student folder (no {WEIGHTS} in it)")


def newest(runs: Path = Path("runs")) -> Path:
    """The run under `runs` whose student is newest. Raises UserError if there is none."""
    found = [p for p in runs.glob(f"*/student/{WEIGHTS}")]
    if not found:
        raise UserError(f"no run with a student under ./{runs}; name one with --student, or make one with `dmd2 demo`")
    return max(found, key=lambda p: p.stat().st_mtime).parent.parent
