"""A folder that `DiffusionPipeline.from_pretrained` takes, and that cannot be called wrongly without an error.

LCMScheduler knows the student's timesteps and no others. The UNet has a `time_cond_proj_dim`, by which the pipelines
decide to apply no classifier-free guidance whatever guidance_scale says; its weights are zero, so it changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from dmd2_plugins.export import card, lcm
from dmd2_plugins.export.compare import DTYPES, Dtype, difference, known
from dmd2_plugins.export.drafts import whole
from dmd2_plugins.export.pipeline import PROMPTS, SEED, assembled, drawn, plain, require, seen, sharing, silent
from dmd2_plugins.stable_diffusion.folder import quiet
from dmd2_plugins.stable_diffusion.unet import GUIDANCE_WIDTH
from dmd2cli.source import Source
from dmd2cli.student import Student

SCALE = "time_embedding.cond_proj.weight"


def export(student: Student, out: Path, dtype: Dtype = "fp32") -> Mapping[str, Any]:
    """Write the folder out; loaded by diffusers and called as the card says, it must draw the same images.

    dtype: fp32 or fp16, of the weights on disk. Raises UserError for students of other families, and for those that
    LCMScheduler cannot call at the right times.
    """
    require(student, "diffusers")
    known(dtype)
    pipe = assembled(student, unguided(student), lcm.scheduler(student))
    reference = seen(student, pipe, student.source.network)
    with whole(out) as draft:
        wanted = drawn(as_called(reference))
        with quiet():
            for part in pipe.components.values():
                if isinstance(part, torch.nn.Module):
                    part.to(DTYPES[dtype])
            pipe.save_pretrained(draft)
        card.write(draft, student.contract, out.name, call(student, out.name), notes(student))
        del pipe, reference
        found = difference(wanted, reloaded(draft, student), out, dtype)
    steps = lcm.timesteps(student)
    return {"folder": str(out), "call": line(student), "timesteps": steps, "max_pixel_difference": found}


def unguided(student: Student) -> Any:
    """The student's UNet, which guidance_scale does nothing to; of a student that reads the scale, as it is."""
    unet, (_, rows, columns) = plain(student).backbone.unet, student.source.teacher.shape
    square = {"sample_size": rows} if rows == columns else {}
    if student.source.reads_scale:
        return sharing(unet, square, {})
    width = unet.config.time_cond_proj_dim or GUIDANCE_WIDTH
    like = unet.time_embedding.linear_1.weight
    zeros = torch.zeros(like.shape[1], width, dtype=like.dtype, device=like.device)
    return sharing(unet, {**square, "time_cond_proj_dim": width}, {SCALE: zeros})


def as_called(source: Source) -> Source:
    """The student's sampling with the noise that a pipeline draws between its calls."""
    return replace(source, sampler=lcm.LikeDiffusers(source.sampler))


def reloaded(folder: Path, student: Student) -> UInt8[Tensor, "b 3 h w"]:
    """What diffusers draws with the folder, from the noise of drawn()."""
    import diffusers

    source = student.source
    start = source.noise(SEED, range(len(PROMPTS)))
    with quiet():
        kind: Any = diffusers.DiffusionPipeline
        pipe = silent(kind.from_pretrained(folder, local_files_only=True))
        pipe.to(start.device, torch.float32)
        scale = {"guidance_scale": source.guidance} if source.reads_scale else {}
        more = {"latents": start, "generator": lcm.generator(), "output_type": "pt", **scale, **size(student)}
        images = pipe(list(PROMPTS), num_inference_steps=len(student.times), **more).images
    return (images * 255).clamp(0, 255).to(torch.uint8).cpu()


def line(student: Student) -> str:
    """The one correct call."""
    scale = f", guidance_scale={student.source.guidance:g}" if student.source.reads_scale else ""
    sides = "".join(f", {name}={side}" for name, side in size(student).items())
    return f"pipe(prompt, num_inference_steps={len(student.times)}{scale}{sides})"


def size(student: Student) -> dict[str, int]:
    """What a call must say of the image's size: nothing where that is the pipeline's default."""
    height, width = student.contract["details"]["resolution"]
    return {} if height == width else {"height": height, "width": width}


def call(student: Student, name: str) -> str:
    """It, and what comes before."""
    return f'''```python
import torch
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{name}").to("cuda", torch.float16)
prompt = "a llama wearing sunglasses"
image = {line(student)}.images[0]
```'''


def notes(student: Student) -> list[str]:
    """What else there is to know."""
    n, steps = len(student.times), ", ".join(map(str, lcm.timesteps(student)))
    what = "`guidance_scale` does nothing: it is baked in, and the UNet's `time_cond_proj_dim` turns it off."
    if student.source.reads_scale:
        low, high = (student.contract["guidance"][key] for key in ("min", "max"))
        what = f"`guidance_scale` is an input of the network, from {low:g} to {high:g}; nothing else is that scale."
    return [
        f"`num_inference_steps={n}` runs the network at timestep{'s' if n > 1 else ''} {steps}, as it was trained.",
        f"Without it the pipelines ask for 50 steps, which the scheduler refuses: {n} is all there is.",
        what,
        "Keep the scheduler: another one calls the network at times that it does not know.",
        "There is no safety checker in this folder.",
    ]
