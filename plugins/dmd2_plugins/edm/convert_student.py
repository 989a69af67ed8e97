"""The one-step students of the DMD2 release on ImageNet-64, pytorch_model.bin, as student artefacts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dmd2_plugins.edm.config import Config
from dmd2_plugins.edm.convert import described, expected, matched
from dmd2_plugins.edm.presets import PRESETS
from dmd2_plugins.edm.teacher import teacher
from dmd2cli import foreign
from dmd2cli.converters import Converted
from dmd2cli.errors import UserError
from dmd2cli.samplers.few_step import FewStep
from dmd2cli.student import contract

LICENCE = "the DMD2 release is under CC BY-NC-SA 4.0"
STUDENT, GUIDANCE = "pytorch_model.bin", "pytorch_model_1.bin"
CRITIC = ("real_unet.", "fake_unet.", "cls_pred_branch.")
"""How names start in the release's file of teacher, fake score and GAN head."""


class Student:
    """The converter `edm-student`."""

    def recognises(self, source: Path) -> bool:
        """A file of torch.save with the names of such a network; only names and shapes are read."""
        if foreign.kind(source) != "torch":
            return False
        found = foreign.load(source, "meta")
        return isinstance(found, Mapping) and any(bare(str(name)).startswith(("model.map_", *CRITIC)) for name in found)

    def convert(self, source: Path) -> Converted:
        found = {bare(name): tensor for name, tensor in foreign.state_dict(source).items()}
        if any(name.startswith(CRITIC) for name in found):
            what = "teacher, fake score and GAN head of a DMD2 run, which the release saves as " + GUIDANCE
            raise UserError(f"{source}: holds {what}; convert {STUDENT} of the same folder, its student")
        shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
        preset = preset_of(shapes)
        config = PRESETS[preset].config
        names = matched(config, shapes, source)
        tensors = {names[name]: tensor.float() for name, tensor in found.items()}
        held = contract_of(preset, config, source)
        return Converted(f"a DMD2 student, {preset}", tensors, {"dmd2_student": json.dumps(held)}, list(found))


def bare(name: str) -> str:
    """A name without what DistributedDataParallel puts before it."""
    return name.removeprefix("module.")


def preset_of(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The preset with these weights; ImageNet-64, the release's only one, if there is none."""
    return next((name for name, preset in PRESETS.items() if expected(preset.config) == shapes), "imagenet64")


def contract_of(preset: str, config: Config, source: Path) -> dict[str, Any]:
    """How the release draws: one call at sigma 80, which is t = 1, without guidance.

    The teacher's sampler is EDM's deterministic one: 18 steps for CIFAR-10, 40 at side 64 (Karras et al. 2022, Sec. 5).
    """
    details = described(config, source, LICENCE, preset=preset)
    with torch.device("meta"):
        family = teacher(preset, skeleton=details)
    steps = 18 if config.img_resolution <= 32 else 40
    named = {"teacher": {"use": "edm", "preset": preset}, "teacher_sampler": {"use": "heun", "steps": steps}}
    trained = {"weights": "raw", "converted": details["source"]}
    return contract(family, {**named, "metrics": []}, FewStep((1.0,)), 1.0, trained)
