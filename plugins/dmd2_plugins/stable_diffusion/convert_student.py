"""Students of the DMD2 release, and of runs of its code, as student artefacts: UNets of SD 1.5 and SDXL, and LoRAs.

Layouts: the names of a UNet2DConditionModel, whatever training has put before them; a LoRA in kohya's names
(lora_unet_...); a whole UNet with a LoRA of peft in it, as the release's LoRA runs save their generator.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dmd2_plugins.stable_diffusion import licences
from dmd2_plugins.stable_diffusion import teacher as families
from dmd2_plugins.stable_diffusion.factors import adapter, is_adapted, is_kohya
from dmd2_plugins.stable_diffusion.identity import identity
from dmd2_plugins.stable_diffusion.options import Options, opened
from dmd2_plugins.stable_diffusion.spec import Spec, absent, described
from dmd2cli import foreign
from dmd2cli.converters import Converted
from dmd2cli.errors import UserError
from dmd2cli.recipe_parts import Lora
from dmd2cli.samplers.few_step import FewStep
from dmd2cli.student import contract
from dmd2cli.weights import read_weights

WRAPPERS = {"module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod"}
"""What wrapping a network puts into its names, anywhere."""
OWNERS = ("feedforward_model.", "base_model.model.", "unet.")
"""How names start where the network is a part of something else."""
STEPS = {"1step": (399,), "4step": (999, 749, 499, 249)}
"""In the name of a file of SDXL -> the timesteps of its calls."""
GUIDANCE = {"sd15": 1.75, "sdxl": 8.0}
"""Of the teacher in the release's scripts, baked into the student."""
OUR = "backbone.unet."


@dataclass(frozen=True)
class Student:
    """The converter `sd-student`."""

    model: str | None = None
    """The base: diffusers folder, hub name or single file; null = the family's own."""
    family: Literal["sd15", "sdxl"] | None = None
    """The base's; null = told by the weights, sdxl for a LoRA."""
    timesteps: tuple[int, ...] | None = None
    """Of the calls; null = told by the file's name for SDXL, 999 for Stable Diffusion 1.5."""
    guidance: float | None = None
    """That is baked in; null = that of the release: 8 for SDXL, 1.75 for Stable Diffusion 1.5."""
    alpha: float = 8.0
    """Of a LoRA that is saved without its own: the release's."""

    def recognises(self, source: Path) -> bool:
        """By names alone."""
        return is_unet(names := {bare(name) for name in listed(source)}) or is_kohya(names)

    def convert(self, source: Path) -> Converted:
        found = {bare(name): value for name, value in read(source).items()}
        if not is_unet(found) and not is_kohya(found):
            raise UserError(f"{source}: neither a UNet of diffusers nor a LoRA of one in kohya's names")
        sized = is_kohya(found) or any(name.startswith("add_embedding.") for name in found)
        use = self.family or ("sdxl" if sized else "sd15")
        options = Options(model=self.model).placed(use)
        if is_kohya(found) or is_adapted(found):
            return self.adapter(source, found, use, options)
        spec = described(use, options, *absent(use, options), weights=False)
        tensors = {f"{OUR}{name}": value for name, value in found.items()}
        return self.converted(source, spec, tensors, list(found), {}, None)

    def adapter(self, source: Path, found: Mapping[str, Tensor], use: str, options: Options) -> Converted:
        """A LoRA, which stays one."""
        spec = described(use, options, *opened(use, options))
        tensors, lora, unused = adapter(source, found, spec, self.alpha)
        used = [name for name in found if name not in unused]
        return self.converted(source, spec, {f"{OUR}{k}": v for k, v in tensors.items()}, used, unused, lora)

    def converted(
        self,
        source: Path,
        spec: Spec,
        tensors: Mapping[str, Tensor],
        used: Sequence[str],
        unused: Mapping[str, str],
        lora: Lora | None,
    ) -> Converted:
        """With the contract of the release: called at its timesteps with fresh noise between, without guidance."""
        details = {**spec.details, "lora": []}
        with torch.device("meta"):
            family = getattr(families, spec.name)(skeleton=details)
        if lora is None:
            fit(tensors, family.denoiser.state_dict(), source, str(details["model"]))
        sampler = FewStep(self.times(source, spec))
        named = {"teacher": {"use": spec.name, "model": details["model"]}, "metrics": []}
        named |= {"teacher_sampler": {"use": "euler", "steps": 50}}
        facts = {"file": source.name, "sha256": identity([source]), "licence": licences.of(source.name)}
        guidance = GUIDANCE[spec.name] if self.guidance is None else self.guidance
        trained = {"weights": "raw", "converted": facts}
        held = contract(family, named, sampler, float(guidance), trained, lora.model_dump() if lora else None)
        calls = ", ".join(map(str, held["sampler"].get("timesteps", sampler.times)))
        about = f"a DMD2 student of {spec.name}{', LoRA' if lora else ''}, called at {calls}"
        return Converted(about, tensors, {"dmd2_student": json.dumps(held)}, used, unused)

    def times(self, source: Path, spec: Spec) -> tuple[float, ...]:
        """Of the calls, from timesteps. Raises UserError if they are not known, or not in the table."""
        known = next((steps for mark, steps in STEPS.items() if mark in source.name), None)
        asked = self.timesteps or (known if spec.name == "sdxl" else (999,))
        if asked is None:
            choice = "timesteps=[999,749,499,249] or timesteps=[399]"
            raise UserError(f"{source.name}: says not at which timesteps it is called; add {choice}, or its own")
        n = spec.clock.steps
        if any(not 0 <= k < n for k in asked) or list(asked) != sorted(set(asked), reverse=True):
            raise UserError(f"timesteps: must fall strictly and lie in 0 to {n - 1}, got {list(asked)}")
        return tuple((k + 1) / n for k in asked)


def bare(name: str) -> str:
    """A name without what training put before it."""
    name = ".".join(part for part in name.split(".") if part not in WRAPPERS)
    while owner := next((part for part in OWNERS if name.startswith(part)), None):
        name = name.removeprefix(owner)
    return name


def is_unet(names: Iterable[str]) -> bool:
    """Whether these are the names of a UNet2DConditionModel."""
    return {"conv_in.weight", "conv_out.weight"} <= set(names) and any(name.startswith("mid_block.") for name in names)


def listed(source: Path) -> list[str]:
    """The names of the tensors in a file of torch.save or safetensors; none of another file."""
    if foreign.kind(source) == "torch":
        found = foreign.load(source, "meta")
        return [str(name) for name in found] if isinstance(found, Mapping) else []
    try:
        with safe_open(source, "pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError):
        return []


def read(source: Path) -> dict[str, Tensor]:
    """The tensors of a file of torch.save, by the reader for weights only, or of safetensors."""
    return foreign.state_dict(source) if foreign.kind(source) == "torch" else read_weights(source)


def fit(tensors: Mapping[str, Tensor], own: Mapping[str, Any], source: Path, model: str) -> None:
    """Raise UserError, naming the first tensors, unless they are exactly those of the base's UNet."""
    differences = {
        "lacks": own.keys() - tensors.keys(),
        "has unknown": tensors.keys() - own.keys(),
        "has other shapes of": {name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape},
    }
    for what, names in differences.items():
        if names:
            first = ", ".join(name.removeprefix(OUR) for name in sorted(names)[:3])
            told = f"{source}: {what} {first} ({len(names)} in all)"
            raise UserError(f"{told}: no student of {model}; name its base with model=, or get the file again")
