"""Pixels and latents in every precision: what a decoder makes of them, and how the latents are scaled."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dmd2cli.doctor.finding import Finding
from dmd2cli.engine.preflight.reading import finite
from dmd2cli.engine.preflight.subject import Subject

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
IMAGES = 8
"""Samples that are decoded, one at a time."""
SPREAD = (0.5, 2.0)
"""Standard deviation of latents: a scaling factor is there to make it 1. Stable Diffusion's 0.18215 gives 0.9 to 1."""
OFFSET = 1.0
"""Mean of latents, in their standard deviations; single channels of Stable Diffusion's go up to 0.5."""


@dataclass(frozen=True)
class Precision:
    """A decoder in one type of number. None: this machine cannot compute in it, or there is nothing to measure."""

    dtype: str
    configured: bool
    finite: bool | None
    """Whether all pixels are."""
    difference: float | None
    """Largest difference to fp32, in pixels of 255."""
    encodes: bool | None = None
    """Whether latents of these pixels are finite in it."""


def precisions(s: Subject) -> list[Precision]:
    """Of a teacher with networks behind its `full` decoder; [] of one without. Works on copies, one after the other."""
    full = s.teacher.decoders.get("full")
    if full is None or not networks(full):
        return []
    x = s.x[:IMAGES].nan_to_num()                           # of a teacher that draws nothing finite
    exact = decoded(full, "fp32", x)
    return [precision(s, name, x, exact) for name in DTYPES]


def precision(s: Subject, name: str, x: Tensor, exact: Tensor | None) -> Precision:
    """Of one type, against what fp32 gave."""
    full = s.teacher.decoders["full"]
    own = {p.dtype for module in networks(full) for p in (*module.parameters(), *module.buffers())}
    found = exact if name == "fp32" else decoded(full, name, x)
    if found is None or exact is None:
        return Precision(name, DTYPES[name] in own, None, None)
    fine = bool(found.isfinite().all())
    difference = finite((as_shown(found) - as_shown(exact)).abs().max()) if fine else None
    pixels = exact.clamp(-1, 1).nan_to_num()
    return Precision(name, DTYPES[name] in own, fine, difference, encoded(s.teacher.decode, name, pixels))


def as_shown(pixels: Tensor) -> Tensor:
    """Values of 0 to 255, not rounded."""
    return (pixels.clamp(-1, 1) + 1) * 127.5


def networks(call: Any) -> list[nn.Module]:
    """What a decoder computes with: itself, what the object of a method holds, or what a partial was given."""
    if isinstance(call, nn.Module):
        return [call]
    if isinstance(call, partial):
        held = [call.func, *call.args, *call.keywords.values()]
        return [module for part in held for module in networks(part)]
    owner = getattr(call, "__self__", call)
    return [part for part in getattr(owner, "__dict__", {}).values() if isinstance(part, nn.Module)]


@torch.no_grad()
def decoded(full: Callable[[Tensor], Tensor], name: str, x: Tensor) -> Tensor | None:
    """Pixels by a copy of the decoder in a type; None if this machine cannot compute in it."""
    made = copy.deepcopy(full)
    for module in networks(made):
        module.to(DTYPES[name])
    try:
        return torch.cat([made(one[None]).float().cpu() for one in x])
    except (RuntimeError, NotImplementedError):            # a kernel that is not there for this type
        return None


@torch.no_grad()
def encoded(decode: Any, name: str, pixels: Tensor) -> bool | None:
    """Whether a copy of the encoder gives finite latents in a type, and stays in it. None: there is no encoder."""
    if not hasattr(decode, "latents"):
        return None
    made = copy.deepcopy(decode)
    held = networks(made)
    for module in held:
        module.to(DTYPES[name])
    with contextlib.redirect_stderr(io.StringIO()):        # it may say there that it went on in float32
        try:
            found = torch.cat([made.latents(one[None]).float() for one in pixels])
        except (RuntimeError, NotImplementedError):
            return None
    stayed = all(p.dtype == DTYPES[name] for module in held for p in module.parameters() if p.is_floating_point())
    return bool(found.isfinite().all()) and stayed


@dataclass(frozen=True)
class Channel:
    """Of x."""

    mean: float
    std: float


def channels(s: Subject) -> list[Channel]:
    """Mean and standard deviation of every channel of x, or of every dimension of vectors."""
    values = s.x.transpose(0, 1).flatten(1)
    return [Channel(finite(mean), finite(std)) for mean, std in zip(values.mean(1), values.std(1), strict=True)]


def findings(s: Subject, precisions: Sequence[Precision]) -> list[Finding]:
    """A decoder that overflows in the type that it is configured for, and latents far from unit variance."""
    found = list[Finding]()
    for one in precisions:
        if one.configured and one.finite is False:
            says = f"the decoder gives values that are not finite in {one.dtype}, the type it is configured for"
            change = [] if one.dtype == "fp32" else ["teacher.vae_dtype=fp32"]
            cause = "its weights are damaged" if one.dtype == "fp32" else "the VAE overflows in that type"
            found.append(Finding("decoder", f"decoder/{one.dtype}", 1.0, 0.0, says, cause, change))
    if not hasattr(s.teacher.decode, "latents"):
        return found
    cause = "another scaling factor (or shift) than the teacher was trained with, or another VAE"
    if not SPREAD[0] <= s.std <= SPREAD[1]:
        says = f"latents have standard deviation {s.std:.3g}, and should have about 1"
        bound = SPREAD[0] if s.std < SPREAD[0] else SPREAD[1]
        change = ["scaling_factor in vae/config.json"]
        found.append(Finding("latents", "latents/std", s.std, bound, says, cause, change))
    if (mean := abs(finite(s.x.mean())) / max(s.std, 1e-8)) > OFFSET:
        says = f"the mean of latents is {mean:.3g} of their standard deviations from 0"
        change = ["shift_factor in vae/config.json"]
        found.append(Finding("latents", "latents/mean", mean, OFFSET, says, cause, change))
    return found
