"""A LoRA in two files: one with the keys of diffusers, one with those of kohya, which other programs read.

The strength alpha / rank is in the factors, so that alpha is the rank in both files and no reader can lose it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dmd2_plugins.export import card, lcm
from dmd2_plugins.export.compare import DTYPES, Dtype, difference, known
from dmd2_plugins.export.drafts import whole
from dmd2_plugins.export.extract import Extraction, apply, extract
from dmd2_plugins.export.pipeline import assembled, base, drawn, require, seen, unscaled
from dmd2_plugins.export.usage import metadata, ode, scheduler, usage
from dmd2_plugins.stable_diffusion.folder import quiet
from dmd2cli.adapters import View
from dmd2cli.errors import UserError
from dmd2cli.lora_file import DIFFUSERS_NAME as FILE
from dmd2cli.student import Student
from dmd2cli.weights import save_weights

DIFFUSERS, KOHYA = "diffusers", "kohya"
"""Whose keys a file has."""
PREFIX = "backbone.unet."
"""Of the layers of a student's UNet."""


@dataclass(frozen=True)
class Factors:
    """What is written, and how it came about."""

    tensors: Mapping[str, Tensor]
    """By the names that peft writes, relative to the UNet; their product is the whole change."""
    rank: int
    extraction: Extraction | None
    """None for a student that is a LoRA."""


def export(student: Student, out: Path, rank: int = 64, dtype: Dtype = "fp32") -> Mapping[str, Any]:
    """Write the folder out; loaded by diffusers onto the base, both files must draw the same images.

    rank: of what is extracted from a student whose weights were all trained; one that is a LoRA keeps its own. The
    images of an extraction are compared with those of its own product, and their distance to the student's is told.
    """
    require(student, "lora")
    known(dtype)
    with whole(out) as draft:
        found, said = write(student, draft, out, (DIFFUSERS, KOHYA), rank, dtype)
        text = "`{}` has the keys of diffusers, `{}` those of kohya: ComfyUI, A1111, Forge, InvokeAI."
        items = [*notes(student, found), text.format(*said["files"])]
        card.write(draft, student.contract, out.name, call(student, out.name), items)
    return {"folder": str(out), **said}


def write(
    student: Student, folder: Path, out: Path, keys: Sequence[str], rank: int, dtype: Dtype
) -> tuple[Factors, dict[str, Any]]:
    """Files with some keys in a folder that will be out, read back. Raises UserError for what cannot be a LoRA."""
    unscaled(student, "lora")
    if rank < 1:
        raise UserError(f"rank: {rank}: must be at least 1")
    unet = base(student)
    found = factors(student, unet, rank)
    tensors = {f"unet.{name}": value.to(DTYPES[dtype]).cpu() for name, value in found.tensors.items()}
    files = {DIFFUSERS: (FILE, tensors), KOHYA: (f"{out.name}.safetensors", kohya(tensors))}
    names = [files[key][0] for key in keys]
    for name, held in (files[key] for key in keys):
        save_weights(held, folder / name, metadata(student, ss_network_dim=found.rank, ss_network_alpha=found.rank))
    if found.extraction is not None:
        (folder / "extraction.json").write_text(json.dumps(found.extraction.errors, indent=2) + "\n")
    told = checked(student, found, assembled(student, unet, scheduler(student)), folder, names, out, dtype)
    return found, {"files": names, "rank": found.rank, **told}


def factors(student: Student, unet: nn.Module, rank: int) -> Factors:
    """Of a LoRA its own, of other students what is extracted. Raises UserError for those that cannot be either."""
    network = student.source.network
    if isinstance(network, View):
        kept = student.contract["lora"]
        return Factors(scaled(network, kept["alpha"] / kept["rank"]), kept["rank"], None)
    found = extract(unet, network.backbone.unet, rank)  # type: ignore[union-attr, arg-type]
    return Factors(found.tensors, rank, found)


def scaled(view: View, strength: float) -> dict[str, Tensor]:
    """A LoRA's factors by the layers of the UNet, its strength multiplied into B."""
    return {
        name.removeprefix(PREFIX): value * strength if ".lora_B." in name else value
        for name, value in view.weights().items()
    }


def kohya(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same under the names of kohya, with alpha = rank."""
    from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya

    convert: Any = convert_state_dict_to_kohya
    return {name: value.clone() for name, value in convert(dict(tensors)).items()}


def checked(
    student: Student, found: Factors, pipe: Any, folder: Path, files: list[str], out: Path, dtype: Dtype
) -> dict[str, Any]:
    """Differences of the files, loaded by diffusers onto the base, to what they should draw and to the student."""
    mine = drawn(seen(student, pipe, student.source.network))
    wanted = mine
    if found.extraction is not None:
        bare, pipe.unet = pipe.unet, apply(deepcopy(pipe.unet), found.tensors)
        wanted = drawn(seen(student, pipe))
        pipe.unet = bare
    worst, real = 0, 0
    for name in files:
        with quiet():
            pipe.load_lora_weights(folder, weight_name=name, local_files_only=True)
        images = drawn(seen(student, pipe))
        worst = max(worst, difference(wanted, images, out, dtype))
        real = max(real, int((mine.int() - images.int()).abs().max()))
        pipe.unload_lora_weights()
    if found.extraction is None:
        return {"max_pixel_difference": worst}
    told = {name: found.extraction.errors[name] for name in ("by_rank", "elsewhere")}
    return {**told, "max_pixel_difference_of_files": worst, "max_pixel_difference": real}


def call(student: Student, name: str) -> str:
    """The one correct call with diffusers."""
    kind = "EulerDiscreteScheduler" if ode(student) else "LCMScheduler"
    source = card.named(str(student.contract["details"]["model"]))
    return f'''```python
import torch
from diffusers import DiffusionPipeline, {kind}

pipe = DiffusionPipeline.from_pretrained("{source}").to("cuda", torch.float16)
pipe.scheduler = {kind}.from_config(pipe.scheduler.config)
pipe.load_lora_weights("{name}", weight_name="{FILE}")
prompt = "a llama wearing sunglasses"
image = pipe(prompt, timesteps={lcm.timesteps(student)}, guidance_scale=1.0).images[0]
```'''


def notes(student: Student, found: Factors) -> list[str]:
    """What else there is to know."""
    said = [usage(student) + "."]
    if student.contract["details"].get("lora"):
        said.append("The base is the teacher's with its own LoRAs fused; without them this one does not fit.")
    if found.extraction is None:
        return said
    error, rest = found.extraction.by_rank[found.rank], found.extraction.elsewhere
    text = f"Extracted from full weights: relative error {error:.1%} at rank {found.rank} in the layers that it adapts"
    return [*said, f"{text}; {rest:.1%} of the squared change is in others. `extraction.json` has all numbers."]
