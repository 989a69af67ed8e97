"""A student of Stable Diffusion as a pipeline of diffusers, and any such pipeline as the student again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from dmd2_plugins.stable_diffusion.codec import Codec
from dmd2_plugins.stable_diffusion.family import family
from dmd2_plugins.stable_diffusion.folder import quiet
from dmd2_plugins.stable_diffusion.late import Late
from dmd2_plugins.stable_diffusion.prompts import Prompts
from dmd2_plugins.stable_diffusion.text import Text
from dmd2_plugins.stable_diffusion.unet import UNet
from dmd2cli.adapters import View, merged
from dmd2cli.core.denoiser import Preconditioned
from dmd2cli.errors import UserError
from dmd2cli.source import Source
from dmd2cli.student import Student

KINDS = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
PROMPTS = ("a photograph of a red cat", "three")
"""What results are compared on, one image each."""
SEED = 20


def stable(student: Student) -> bool:
    """Whether its network is a UNet of Stable Diffusion 1, 2 or SDXL."""
    network = student.source.network
    base = network.adapters.base if isinstance(network, View) else network
    kind = student.contract.get("details", {}).get("pipeline")
    return isinstance(getattr(base, "backbone", None), UNet) and kind in KINDS


def require(student: Student, form: str) -> None:
    """Raise UserError unless a format that is for Stable Diffusion alone can be written."""
    if not stable(student):
        takes = "takes students of Stable Diffusion 1, 2 and SDXL"
        raise UserError(f"{form}: {takes}, and this is one of {kind(student)}; choose safetensors")


def kind(student: Student) -> str:
    """Of what family it is, for messages."""
    found = student.contract.get("details", {}).get("pipeline")
    return str(found or student.contract.get("teacher", {}).get("use", "another family"))


def unscaled(student: Student, form: str) -> None:
    """Raise UserError for a student that reads the guidance scale where a format has no place for that."""
    if student.source.reads_scale:
        why = "reads the guidance scale, for which this format has no place"
        raise UserError(f"{form}: this student {why}; choose diffusers")


def plain(student: Student) -> Any:
    """Its network with weights of its own: of a LoRA, a copy of the base with the LoRA merged into it."""
    network = student.source.network
    return merged(network).eval() if isinstance(network, View) else network


def base(student: Student) -> Any:
    """The UNet that a student started from, a copy. Raises UserError if its weights are not there."""
    network = student.source.network
    found: Any = merged(View(network.adapters, None)) if isinstance(network, View) else student.teacher().network
    return found.backbone.unet


def sharing(unet: Any, changes: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """A UNet of a changed configuration that shares the weights, some of them added or in the place of others."""
    with torch.device("meta"):
        made = type(unet).from_config({**unet.config, "_name_or_path": "", **changes})
    made.load_state_dict({**unet.state_dict(), **tensors}, assign=True)
    return made.eval().requires_grad_(False)


def assembled(student: Student, unet: Any, scheduler: Any) -> Any:
    """A pipeline of some UNet, and the student's text encoders, tokenizers and VAE, loaded afresh in float32."""
    import diffusers

    prompts, codec, details = student.source.teacher.encode, student.source.teacher.decode, student.contract["details"]
    assert isinstance(prompts, Prompts) and isinstance(codec, Codec), "a teacher of this family"
    words: Any = prompts.text.load()
    slots = zip(words.slots, words.encoders, words.tokenizers, strict=True)
    parts = {f"{name}{slot}": part for slot, *pair in slots for name, part in zip(NAMES, pair, strict=True)}
    kind = getattr(diffusers, details["pipeline"])
    more = {"add_watermarker": False} if kind.__name__ == KINDS[1] else SAFETY
    with quiet():
        made = kind(unet=unet, vae=codec.vae.load(), scheduler=scheduler, **parts, **more)
    for part in made.components.values():
        if isinstance(part, nn.Module):
            unnamed(part.eval())
    return silent(made)


NAMES = ("text_encoder", "tokenizer")
SAFETY = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def unnamed(part: Any) -> None:
    """Forget from where on this machine a part was loaded."""
    if hasattr(part, "register_to_config"):
        part.register_to_config(_name_or_path="")
    else:
        part.config._name_or_path = ""


def silent(pipe: Any) -> Any:
    """The pipeline without progress bars."""
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Loaded:
    """The parts of a pipeline in memory, as text encoders are built from."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def has(self, part: str) -> bool:
        """Whether there is one."""
        return getattr(self.pipe, part, None) is not None

    def load(self, part: str) -> Any:
        """A text encoder or tokenizer."""
        return getattr(self.pipe, part)


def seen(student: Student, pipe: Any, network: nn.Module | None = None) -> Source:
    """The student's own sampling with the parts of a pipeline; network: another one than the pipeline's UNet."""
    source = student.source
    teacher, place = source.teacher, next(source.network.parameters()).device
    prompts, codec = teacher.encode, teacher.decode
    assert isinstance(prompts, Prompts) and isinstance(codec, Codec), "a teacher of this family"
    config = student.contract["details"]["config"]
    words: Text = family(config).text(Loaded(pipe), 0, prompts.shapes["text"][1])
    teacher = replace(
        teacher,
        encode=replace(prompts, text=Late(lambda: words).to(place), memory=type(prompts.memory)()),
        decode=replace(codec, vae=Late(lambda: pipe.vae).to(place)),
    )
    return replace(source, teacher=teacher, network=network or denoiser(student, UNet(pipe.unet)).to(place))


def denoiser(student: Student, backbone: nn.Module) -> Preconditioned:
    """Another backbone in the place of the student's."""
    network = student.source.network
    old: Any = network.adapters.base if isinstance(network, View) else network
    return Preconditioned(backbone, old.schedule, old.parametrization, old.c_noise).eval()


def drawn(source: Source) -> UInt8[Tensor, "b 3 h w"]:
    """What results are compared by."""
    with quiet():
        return source.images(PROMPTS, SEED)
