"""From a Spec to a pipeline that draws: networks, LoRA and scheduler are loaded, and what cannot be is refused."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from packaging.version import Version
from torch import Tensor

from dmd2cli.errors import UserError
from dmd2cli.inference import DTYPES
from dmd2cli.installation.problem import problem
from dmd2cli.lora_file import read_lora
from dmd2cli.pipelines.drawing import Pipeline, denoiser, options_of
from dmd2cli.pipelines.folder import LEFT_OUT, index, located, lora_file, variant
from dmd2cli.pipelines.quiet import quiet
from dmd2cli.pipelines.schedulers import is_flow, scheduler
from dmd2cli.pipelines.spec import Spec, parse
from dmd2cli.protocols import Raw

PICTURES = {"image", "mask_image", "control_image"}
"""Options of pipelines that read pictures."""


def load(spec: Spec, device: torch.device | str = "cpu") -> Pipeline:
    """The pipeline, on a device. Raises UserError if it is not there, is not safe to load, or cannot draw as asked."""
    if spec.dtype not in DTYPES:
        raise UserError(f"--dtype {spec.dtype}: is not one of {', '.join(DTYPES)}")
    pipe = opened(located(spec.path), spec)
    if spec.lora is not None:
        fuse(pipe, lora_file(spec.lora), 1.0 if spec.lora_weight is None else spec.lora_weight)
    call = dict[str, Any]()
    if spec.scheduler is not None:
        pipe.scheduler, call = schedule(pipe, spec.scheduler)
    with sized(spec), quiet():
        return Pipeline(pipe.to(device), spec, call)


def images(
    spec: Spec | str, prompts: Sequence[Raw], seeds: Sequence[int], device: torch.device | str = "cpu"
) -> UInt8[Tensor, "n 3 h w"]:
    """Image 0 of each seed, for a prompt each, of a pipeline by Spec or its text. Raises UserError as load() does."""
    source = load(parse(spec) if isinstance(spec, str) else spec, device)
    return torch.cat(list(source.draw(prompts, seeds)))


def opened(folder: Path, spec: Spec) -> Any:
    """The pipeline of a folder, without the parts that drawing does without, and without bars."""
    import diffusers

    found = index(folder)
    without: dict[str, Any] = {part: None for part in LEFT_OUT if part in found}
    if "requires_safety_checker" in found:
        without["requires_safety_checker"] = False
    if "add_watermarker" in inspect.signature(getattr(diffusers, found["_class_name"])).parameters:
        without["add_watermarker"] = False
    kept: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
    dtype = "dtype" if Version(diffusers.__version__) >= Version("0.40") else "torch_dtype"   # deprecated
    chosen: dict[str, Any] = {"variant": variant(folder, found), dtype: DTYPES[spec.dtype]}
    with readable(f"{spec.path}: cannot be loaded; get it again, or choose another"):
        kind: Any = diffusers.DiffusionPipeline
        pipe = kind.from_pretrained(folder, **kept, **chosen, **without)
    pipe.set_progress_bar_config(disable=True)
    if denoiser(pipe) is None:
        raise UserError(f"{spec.path}: a {type(pipe).__name__} has neither a unet nor a transformer to draw with")
    check(pipe, spec)
    return pipe


def check(pipe: Any, spec: Spec) -> None:
    """Raise UserError for what a pipeline is asked and has no option for."""
    known, kind = options_of(pipe), type(pipe).__name__
    asked = {"guidance": (spec.guidance, "guidance_scale"), "negative": (spec.negative, "negative_prompt"),
             "size": (spec.size, "height"), "steps": (spec.steps, "num_inference_steps")}           # fmt: skip
    for flag, (value, option) in asked.items():
        if value is not None and option not in known:
            raise UserError(f"--{flag}: {kind} of {spec.path} has no such option; leave --{flag} out")
    if PICTURES & known.keys():
        raise UserError(f"{spec.path}: a {kind} draws from pictures; name one of text to image, classes or nothing")


def schedule(pipe: Any, asked: str) -> tuple[Any, dict[str, Any]]:
    """Another scheduler for a pipeline, and options of its call. Raises UserError for one that it cannot drive."""
    made, call = scheduler(asked, pipe.scheduler)
    kind, plain = type(pipe).__name__, "latents" not in options_of(pipe)
    if kind == "DDIMPipeline" and type(made).__name__ != "DDIMScheduler":
        raise UserError(f"--scheduler {asked}: a {kind} draws with ddim alone; leave --scheduler out")
    if plain and not is_flow(made):
        made.set_timesteps(1 + made.order)
        if float(made.init_noise_sigma) != 1.0 or "generator" not in inspect.signature(made.step).parameters:
            raise UserError(f"--scheduler {asked}: a {kind} cannot drive it; choose ddim, ddpm or dpm++")
    return made, {key: value for key, value in call.items() if key in options_of(pipe)}


def fuse(pipe: Any, path: Path, weight: float) -> None:
    """Add a LoRA to the networks of a pipeline, for good. Raises UserError if it is none, or of another base."""
    kind = type(pipe).__name__
    if not hasattr(pipe, "lora_state_dict"):
        raise UserError(f"--lora: diffusers has no LoRAs for {kind}; leave --lora out")
    try:
        lora = read_lora(path, type(pipe), denoiser(pipe).config)
        for part in lora.parts:
            lora.fuse(getattr(pipe, part), part, weight)
    except UserError as err:
        raise UserError(f"--lora: is no LoRA that fits this {kind}: {err}") from err


@contextmanager
def sized(spec: Spec) -> Iterator[None]:
    """What a device lacks the memory for, as one line."""
    try:
        yield
    except torch.OutOfMemoryError as err:
        raise UserError(f"{spec.path}: does not fit into this device's memory; try --dtype fp16") from err


@contextmanager
def readable(what: str) -> Iterator[None]:
    """What the libraries say of files that they cannot read, as one line; without their bars and advice."""
    from safetensors import SafetensorError

    try:
        with quiet():
            yield
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError, ImportError,
            SafetensorError) as err:                                                                # fmt: skip
        if told := problem(err):
            raise UserError(told) from err
        raise UserError(f"{what} ({' '.join(str(err).split())[:200]})") from err
