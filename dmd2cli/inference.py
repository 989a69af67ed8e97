"""A Source as it is asked for: of another size, in another precision, with another null condition, over an image."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from dmd2cli.adapters import View
from dmd2cli.core.denoiser import Preconditioned
from dmd2cli.errors import UserError
from dmd2cli.samplers.few_step import FewStep
from dmd2cli.source import Source, Start

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resized(source: Source, height: int, width: int) -> Source:
    """For images of a size in pixels; says so if that is not the trained one. UserError if the teacher cannot."""
    teacher, factor = source.teacher, source.factor
    if len(teacher.shape) != 3:
        raise UserError("this teacher's samples are no images")
    trained = tuple(side * factor for side in teacher.shape[1:])
    if (height, width) == trained:
        return source
    if teacher.resized is None:
        raise UserError(f"this teacher's images have one size, {trained[0]} x {trained[1]}")
    found = replace(source, teacher=teacher.resized(teacher, height, width))
    print(f"warning: {height} x {width} pixels, and trained were {trained[0]} x {trained[1]}", file=sys.stderr)
    return found


def with_negative(source: Source, prompt: str) -> Source:
    """With another null condition. Raises UserError where none is drawn against."""
    if source.teacher.negative is None:
        raise UserError("this teacher reads no prompts")
    if source.reads_scale or source.guidance == 1.0:
        raise UserError("has no effect at guidance 1; give --guidance too")
    return replace(source, teacher=source.teacher.negative(source.teacher, prompt))


def with_tiny(source: Source) -> Source:
    """Drawing by the small decoder. Raises UserError if the teacher has none."""
    decode: Any = source.teacher.decode
    if not hasattr(decode, "with_tiny"):
        raise UserError("this teacher has no decoders to choose from")
    return replace(source, teacher=replace(source.teacher, decode=decode.with_tiny()))


def at_dtype(source: Source, name: str) -> Source:
    """With its network in fp32, bf16 or fp16, changed in place; the arithmetic of the sampler stays as it is.

    A network that computes in the type of its weights has these cast; any other computes under autocast. Raises
    UserError for a name that is not known, and for networks of one precision.
    """
    if name not in DTYPES:
        raise UserError(f"{name} is not one of {', '.join(DTYPES)}")
    network: nn.Module = source.network.adapters.base if isinstance(source.network, View) else source.network
    found = [part for part in network.modules() if isinstance(part, Preconditioned)]
    if not found:
        raise UserError("this network computes in float32 alone")
    for part in found:
        casts = getattr(part.backbone, "casts", False)
        part.autocast = None if casts or name == "fp32" else DTYPES[name]
        for p in part.parameters() if casts else ():
            p.data = p.data.to(DTYPES[name])
    return source


def over(source: Source, picture: Image.Image, strength: float) -> tuple[Source, float]:
    """A student that draws over a picture (Meng et al. 2022), and the time it starts from.

    The picture is noised to the first of the student's times that is not above strength, and the calls from there on
    are made. The first call of all starts from pure noise, as in training: nothing of the picture is left then.
    Raises UserError if there is no such time, or the picture cannot become a sample.
    """
    encode = getattr(source.teacher.decode, "latents", None)
    if encode is None or not isinstance(source.sampler, FewStep):
        what = "this teacher cannot read pictures" if encode is None else "is for students, which draw in few calls"
        raise UserError(f"--init-image: {what}")
    if not 0 < strength <= 1:
        raise UserError(f"--strength {strength:g}: expected a number above 0 and at most 1")
    times = source.sampler.times
    if len(times) == 1:
        raise UserError("--init-image: this student makes one call, from pure noise; --steps 2 or more leaves room")
    left = [k for k, t in enumerate(times) if t <= strength + 1e-9]
    if not left:
        said = f"below all times of this student ({', '.join(f'{t:g}' for t in times)})"
        raise UserError(f"--strength {strength:g}: {said}; take at least {times[-1]:g}")
    sampler, t = replace(source.sampler, times=times[left[0] :]), times[left[0]]
    if left[0] == 0:
        return source, t
    height, width = (side * source.factor for side in source.teacher.shape[1:])
    return replace(source, sampler=sampler, start=Start(encode(pixels(picture, height, width), None).float(), t)), t


def pixels(picture: Image.Image, height: int, width: int) -> Tensor:
    """A picture cut to the shape in its middle and resized (Lanczos): (1, 3, height, width) in [-1, 1]."""
    fitted = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)[None].float() / 127.5 - 1


def opened(path: Path) -> Image.Image:
    """A picture in RGB, upright. Raises UserError if there is none."""
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, SyntaxError, ValueError) as err:
        raise UserError(f"{path}: not a picture that can be read ({' '.join(str(err).split())[:100]})") from None
