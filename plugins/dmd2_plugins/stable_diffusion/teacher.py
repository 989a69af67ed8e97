"""The teachers sd15, sdxl and diffusers: pipelines of diffusers as a Teacher.

A student's network is a Preconditioned whose `backbone.unet` (or `backbone.transformer`) is the module of diffusers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from dmd2_plugins.stable_diffusion.codec import Codec
from dmd2_plugins.stable_diffusion.folder import alone, empty, small
from dmd2_plugins.stable_diffusion.late import Late, held
from dmd2_plugins.stable_diffusion.lora import TeacherLora, open_lora
from dmd2_plugins.stable_diffusion.options import Model, Options, opened
from dmd2_plugins.stable_diffusion.prompts import Blank, Prompts
from dmd2_plugins.stable_diffusion.spec import Spec, absent, check_size, described, revived
from dmd2_plugins.stable_diffusion.text import Text
from dmd2_plugins.stable_diffusion.unet import GUIDANCE_WIDTH
from dmd2cli.core.denoiser import Preconditioned
from dmd2cli.protocols import Teacher


def named(name: str) -> Callable[..., Teacher]:
    """A teacher function, its parameters the fields of Options."""

    def teacher(**given: Any) -> Teacher:
        return build(name, Options(**given), {key: value for key, value in given.items() if key != "skeleton"})

    teacher.__name__ = teacher.__qualname__ = name
    teacher.__module__ = Options.__module__                  # where the names in the annotations are known
    teacher.__doc__ = f"A teacher of the family {name}; see Options."
    teacher.__signature__ = inspect.signature(Options).replace(return_annotation=Teacher)  # type: ignore[attr-defined]
    return teacher


sd15, sdxl, diffusers = named("sd15"), named("sdxl"), named("diffusers")


def build(name: str, options: Options, given: Mapping[str, Any] | None = None) -> Teacher:
    """The teacher of some options; with a skeleton, of a student's details or without weights.

    given: the options that were named beside a student's details, and go before them.

    Raises UserError, in one line, for whatever of the model is missing or does not fit.
    """
    if options.skeleton:
        spec = revived(name, options.skeleton, given)
        return wrap(spec, network(spec, skeleton(spec.config)))
    options = options.placed(name)
    if options.skeleton is not None:
        model, marks = absent(name, options)
        spec = described(name, options, model, marks, weights=False)
        return planned(spec, model)
    model, marks = opened(name, options)
    spec = described(name, options, model, marks)
    for part in needed(spec, model):
        model.check(part)
    module = model.load(spec.family.part)
    found = adapters(spec)
    for one in found:
        one.fuse(module, spec.family.part)
    spec = replace(spec, details={**spec.details, "lora": [one.json for one in found]})
    return wrap(spec, network(spec, module))


def needed(spec: Spec, model: Model) -> list[str]:
    """The parts that are loaded later, and so had better be there now."""
    text = spec.family.text
    slots = [slot for slot in text.slots if slot not in text.optional or model.has(f"text_encoder{slot}")]
    vae = [] if spec.options.vae else ["vae"]
    return [*(f"{kind}{slot}" for slot in slots for kind in ("tokenizer", "text_encoder")), *vae]


def network(spec: Spec, module: nn.Module) -> Preconditioned:
    """A network of diffusers as a denoiser."""
    clock = spec.clock
    return Preconditioned(spec.family.backbone(module), clock.schedule, clock.parametrization, clock.c_noise)


def skeleton(config: Mapping[str, Any], **more: Any) -> nn.Module:
    """The module of a configuration, with whatever is in its memory."""
    import diffusers

    return empty(getattr(diffusers, config["_class_name"]), {**config, **more})


def wrap(spec: Spec, denoiser: Preconditioned) -> Teacher:
    """With text encoders and VAE, which are loaded when they are first needed."""
    o, latents = spec.options, spec.details["latents"]
    words = Late(partial(words_of, spec), o.text_dtype)
    vae = Late(partial(vae_of, spec), o.vae_dtype)
    tiny = Late(partial(alone, o.tiny, "vae"), o.vae_dtype) if o.tiny else None
    size = spec.size if spec.family.sized else None
    codec = Codec(vae, latents["scale"], latents["shift"], latents["factor"], tiny, o.tile_above)
    helpers = (words, vae, *([tiny] if tiny else []))
    return teacher(spec, denoiser, Prompts(words, spec.shapes, spec.null, size), codec, helpers)


def planned(spec: Spec, model: Model) -> Teacher:
    """Without weights anywhere: shapes alone."""
    o, latents, size = spec.options, spec.details["latents"], spec.size if spec.family.sized else None
    slots = [slot for slot in spec.family.text.slots if model.has(f"text_encoder{slot}")]
    words = [model.of(f"text_encoder{slot}").skeleton(f"text_encoder{slot}") for slot in slots]
    vae = held(model.base.skeleton("vae"), o.vae_dtype)
    tiny = held(small(o.tiny), o.vae_dtype) if o.tiny else None
    codec = Codec(vae, latents["scale"], latents["shift"], latents["factor"], tiny, o.tile_above)
    helpers = (*(held(part, o.text_dtype) for part in words), vae, *([tiny] if tiny else []))
    return teacher(spec, network(spec, skeleton(spec.config)), Blank(spec.shapes, size), codec, helpers)


def teacher(spec: Spec, denoiser: Preconditioned, encode: Any, codec: Codec, helpers: tuple[nn.Module, ...]) -> Teacher:
    """Everything in its place."""
    config, guided = spec.config, spec.family.part == "unet"
    return Teacher(
        denoiser=denoiser.eval().requires_grad_(False),
        schedule=spec.clock.schedule,
        shape=spec.shape,
        weighting=spec.clock.weighting,
        encode=encode,
        decode=codec,
        head=partial(spec.family.head, config, *spec.shape[1:]),
        guided_network=partial(guided_network, spec, denoiser) if guided else None,
        decoders={"full": codec.pixels, **({"tiny": codec.tiny_pixels} if codec.tiny else {})},
        details=spec.details,
        prompts=True,
        units=spec.family.units(),
        lora_targets=spec.family.targets,
        helpers=helpers,
        resized=resized,
        negative=negative,
    )


def words_of(spec: Spec) -> Text:
    """The text encoders, LoRAs fused into them as well."""
    model, _ = opened(spec.name, spec.options)
    found = spec.family.text(model, spec.length, spec.shapes["text"][1])
    for one in adapters(spec, text=True):
        for slot, encoder in zip(spec.family.text.slots, found.encoders, strict=False):
            one.fuse(encoder, f"text_encoder{slot}")
    return found


def vae_of(spec: Spec) -> nn.Module:
    """The model's VAE, or the one that takes its place."""
    return alone(spec.options.vae, "vae") if spec.options.vae else opened(spec.name, spec.options)[0].load("vae")


def adapters(spec: Spec, text: bool = False) -> list[TeacherLora]:
    """The LoRAs of some options; text: those alone that are known to change the text encoders."""
    known = spec.details["lora"] if text else [{"text": True}] * len(spec.options.lora)
    asked = [one for one, kept in zip(spec.options.lora, known, strict=True) if kept["text"]]
    return [open_lora(one, spec.details["pipeline"], spec.config) for one in asked]


def guided_network(spec: Spec, denoiser: Preconditioned) -> Preconditioned:
    """A copy of the denoiser that reads the guidance scale, as LCM's do, and ignores it at first."""
    width = spec.config.get("time_cond_proj_dim") or GUIDANCE_WIDTH
    made = network(spec, skeleton(spec.config, time_cond_proj_dim=width))
    missing = made.load_state_dict(denoiser.state_dict(), strict=False).missing_keys
    for name in missing:
        made.get_parameter(name).data.zero_()
    return made


def resized(source: Teacher, height: int, width: int) -> Teacher:
    """The same teacher for images of another size. Raises UserError for sides that latents cannot have."""
    codec, prompts = source.decode, source.encode
    assert isinstance(codec, Codec) and isinstance(prompts, Prompts), "a teacher of this family"
    check_size(height, width, source.details["config"], codec.factor)
    shape = (source.shape[0], height // codec.factor, width // codec.factor)
    return replace(source, shape=shape, encode=prompts.at_size(height, width))


def negative(source: Teacher, prompt: str) -> Teacher:
    """The same teacher with another null condition: a negative prompt."""
    prompts = source.encode
    assert isinstance(prompts, Prompts), "a teacher of this family"
    return replace(source, encode=prompts.with_null(prompt))
