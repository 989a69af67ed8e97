"""A distilled student, ready to draw: from an artefact of ours (student_files), or a published one by name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from dmd2cli import published, registry
from dmd2cli.adapters import Adapters, View
from dmd2cli.errors import UserError
from dmd2cli.protocols import Raw, Teacher
from dmd2cli.recipe_parts import Lora
from dmd2cli.samplers.few_step import FewStep, check_table
from dmd2cli.source import Source
from dmd2cli.student_files import WEIGHTS as WEIGHTS
from dmd2cli.student_files import contract as contract
from dmd2cli.student_files import find as find
from dmd2cli.student_files import native as native
from dmd2cli.student_files import newest as newest
from dmd2cli.student_files import read_contract as read_contract
from dmd2cli.student_files import save_student as save_student
from dmd2cli.weights import fit_weights, read_weights


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

    def at_lora_weight(self, weight: float) -> Student:
        """This student with its adapter counting that much: 1 as trained, 0 is the base. Changes it in place.

        Raises UserError for a student that is no adapter.
        """
        network = self.source.network
        if not isinstance(network, View) or network.name is None:
            raise UserError("this student is no LoRA: its weights cannot be told from those of its base")
        network.weigh(weight)
        return self

    def with_options(self, **options: Any) -> Student:
        """The same student with other options of its teacher for what stands around the network, such as another VAE.

        Raises UserError for options that the teacher does not have, or that are what the student was trained with.
        """
        make = registry.load("teachers", self.contract["teacher"]["use"])
        with torch.device("meta"):                         # of its network the shapes would do
            made: Teacher = make(skeleton=self.contract["details"], **options)
        held = self.source.teacher
        made = replace(made, denoiser=held.denoiser, network=held.network, guided_network=held.guided_network)
        around = moved(made, self.source.device)
        return replace(self, source=replace(self.source, teacher=around))

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


def load_student(ref: str | Path, device: torch.device | str = "cpu", download: bool | None = False) -> Student:
    """A student from a run folder, a student folder or a safetensors file of `dmd2`, or a published one by name.

    download: whether the files of a published one may be fetched; None: ask on a terminal. Raises UserError if there is
    none, or it is damaged, or its teacher family is not installed.
    """
    return revived(*opened(ref, download), device)


def opened(ref: str | Path, download: bool | None = False) -> tuple[dict[str, Any], Mapping[str, Tensor], str]:
    """(contract, weights, where they are from) of a student. The rest as in load_student()."""
    if (name := published.known(ref)) is not None:
        made = published.read(name, download)
        return json.loads(made.metadata["dmd2_student"]), made.tensors, name
    path = find(Path(ref))
    return read_contract(path), read_weights(path), str(path)


def reads_prompts(contract: Mapping[str, Any]) -> bool:
    """Whether a student's conditions are free text. Raises UserError if its teacher family is not installed."""
    teacher: Teacher = registry.load("teachers", contract["teacher"]["use"])(skeleton=contract["details"])
    return teacher.prompts


def revived(
    contract: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str, device: torch.device | str
) -> Student:
    """A student of a contract and its weights, which are from `where`."""
    range_, sampler = contract["guidance"], contract["sampler"]
    if contract.get("lora") is not None:
        teacher, network = adapted(contract, tensors, where, device)
    else:
        teacher = registry.load("teachers", contract["teacher"]["use"])(skeleton=contract["details"])
        network = skeleton(teacher, isinstance(range_, Mapping)).eval().requires_grad_(False).to(device)
        fit_weights(network, tensors, where)
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


def adapted(
    contract: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str, device: torch.device | str
) -> tuple[Teacher, nn.Module]:
    """The teacher of a student that is an adapter, with its weights, and the student on it.

    Raises UserError if the teacher is not the one that it was trained on.
    """
    use = dict(contract["teacher"])
    teacher: Teacher = registry.load("teachers", use.pop("use"))(**use)
    if json.loads(json.dumps(dict(teacher.details))) != contract["details"]:
        raise UserError(f"{where}: a LoRA of another base than {contract['teacher']} is now; restore that teacher")
    adapters, lora = Adapters(teacher.denoiser.eval().to(device)), contract["lora"]
    network = adapters.add("student", Lora(**{**lora, "targets": tuple(lora["targets"])}), (), 0)
    network.load(tensors, where)
    return replace(teacher, denoiser=View(adapters, None)), network.eval().requires_grad_(False)


def skeleton(teacher: Teacher, reads_scale: bool) -> nn.Module:
    """The network of a student, its weights still to be loaded."""
    if not reads_scale:
        return teacher.network or teacher.denoiser
    assert teacher.guided_network is not None, "a student that reads the scale came from such a network"
    return teacher.guided_network()
