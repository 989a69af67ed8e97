"""For ComfyUI: one checkpoint in the original layout, or a LoRA, and a workflow that calls it at the right times."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from dmd2_plugins.export import card, lcm, lora, original
from dmd2_plugins.export.compare import DTYPES, Dtype, difference, known
from dmd2_plugins.export.drafts import whole
from dmd2_plugins.export.pipeline import KINDS, assembled, drawn, plain, require, seen, silent, unscaled
from dmd2_plugins.export.usage import metadata, ode, scheduler, usage
from dmd2_plugins.export.vae_scale import rescaled
from dmd2_plugins.export.workflow import listed, node, workflow
from dmd2_plugins.stable_diffusion.folder import SD15, SDXL, Folder, quiet
from dmd2_plugins.stable_diffusion.single_file import SingleFile
from dmd2cli.core.noise import Discrete
from dmd2cli.errors import UserError
from dmd2cli.student import Student
from dmd2cli.weights import save_weights

SCALES = {KINDS[0]: 0.18215, KINDS[1]: 0.13025}
"""Of the latents, which ComfyUI takes from the layout."""
PUBLISHED = {SD15: "v1-5-pruned-emaonly.safetensors", SDXL: "sd_xl_base_1.0.safetensors"}
"""Files of the base models, as they are usually named."""
WORKFLOW = "workflow.json"


def export(
    student: Student,
    out: Path,
    weights: Literal["checkpoint", "lora"] = "checkpoint",
    rank: int = 64,
    dtype: Dtype = "fp32",
) -> Mapping[str, Any]:
    """Write the folder out: NAME.safetensors and workflow.json; diffusers reads the file and draws the same images.

    weights: checkpoint, or lora with the keys of kohya. rank: of a LoRA that is extracted from full weights.
    """
    require(student, "comfyui")
    known(dtype)
    check(student, weights)
    if weights not in ("checkpoint", "lora"):
        raise UserError(f"weights: {weights}: choose from checkpoint, lora")
    file = f"{out.name}.safetensors"
    with whole(out) as draft:
        if weights == "lora":
            found, said = lora.write(student, draft, out, (lora.KOHYA,), rank, dtype)
            notes = lora.notes(student, found)
        else:
            notes, said = [usage(student) + "."], {"files": [file], **checkpoint(student, draft / file, out, dtype)}
        graph = workflow(nodes(student, file, weights), sigmas(student), size(student), sampler(student), ends(student))
        (draft / WORKFLOW).write_text(json.dumps(graph, indent=2) + "\n")
        card.write(draft, student.contract, out.name, call(file, weights), notes)
    return {"folder": str(out), "workflow": WORKFLOW, "sigmas": listed(sigmas(student)), **said}


def check(student: Student, weights: str) -> None:
    """Raise UserError for a student that ComfyUI would take for another model: it knows some by their layout alone."""
    unscaled(student, "comfyui")
    details, schedule = student.contract["details"], student.source.teacher.schedule
    if not isinstance(schedule, Discrete) or not same(schedule, details["scheduler"]["rescale_betas_zero_snr"]):
        raise UserError("comfyui: this student's table of noise levels is not Stable Diffusion's; choose diffusers")
    if details["config"].get("time_cond_proj_dim"):
        raise UserError("comfyui: this UNet has a guidance embedding, which the layout has not; choose diffusers")
    wanted, latents = SCALES[details["pipeline"]], details["latents"]
    if weights == "lora" and (latents["scale"] != wanted or latents["shift"]):
        why = f"the base's VAE has the scale {latents['scale']:g}, and this layout means {wanted:g}"
        raise UserError(f"comfyui: {why}; choose weights=checkpoint, which has a VAE of its own")


def same(schedule: Discrete, zero: bool) -> bool:
    """Whether a table is that of Stable Diffusion, rescaled to end in pure noise if it is said to."""
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    table = Discrete.scaled_linear().alphas_cumprod
    if zero:
        betas = 1 - table / torch.cat([torch.ones(1).double(), table[:-1]])
        table = torch.cumprod(1 - rescale_zero_terminal_snr(betas), 0)
    mine = schedule.alphas_cumprod
    return mine.shape == table.shape and torch.allclose(mine, table, rtol=1e-4, atol=1e-6)


def checkpoint(student: Student, file: Path, out: Path, dtype: Dtype) -> dict[str, Any]:
    """Write the file and compare what diffusers reads of it."""
    pipe = assembled(student, plain(student).backbone.unet, scheduler(student))
    if student.contract["details"]["pipeline"] == KINDS[0] and pipe.text_encoder.config.hidden_act != "quick_gelu":
        raise UserError("comfyui: the text encoder is OpenCLIP's, as in Stable Diffusion 2; choose diffusers")
    wanted = drawn(seen(student, pipe, student.source.network))
    latents = student.contract["details"]["latents"]
    rescaled(pipe.vae, latents["scale"], latents["shift"], SCALES[student.contract["details"]["pipeline"]])
    tensors = {name: value.to(DTYPES[dtype]) for name, value in original.checkpoint(pipe).items()}
    save_weights(tensors | marks(student), file, metadata(student))
    with tempfile.TemporaryDirectory() as folder:
        configs(pipe, Path(folder))
        del pipe, tensors
        return {"max_pixel_difference": difference(wanted, reloaded(student, file, folder), out, dtype)}


def marks(student: Student) -> dict[str, Tensor]:
    """Empty tensors by which ComfyUI and others know models that predict v."""
    scheduler = student.contract["details"]["scheduler"]
    found = ["v_pred"] if scheduler["prediction_type"] == "v_prediction" else []
    found += ["ztsnr"] if scheduler["rescale_betas_zero_snr"] else []
    return {name: torch.zeros(0) for name in found}


def configs(pipe: Any, folder: Path) -> None:
    """All of a pipeline's folder but the weights: what a single file leaves out."""
    pipe.save_config(folder)
    for name, part in pipe.components.items():
        if name.startswith("text_encoder"):
            part.config.save_pretrained(folder / name)
        elif name.startswith("tokenizer"):
            part.save_pretrained(folder / name)
        elif part is not None:
            part.save_config(folder / name)


def reloaded(student: Student, file: Path, folder: str) -> UInt8[Tensor, "b 3 h w"]:
    """What the student's sampler draws with the parts that diffusers reads of the file."""
    import diffusers

    kind, single = getattr(diffusers, student.contract["details"]["pipeline"]), SingleFile(file, Folder(Path(folder)))
    parts = [part for part in ("text_encoder", "text_encoder_2") if single.has(part)]
    with quiet():
        given = {"config": folder, "local_files_only": True, **{part: single.load(part) for part in parts}}
        pipe = silent(kind.from_single_file(file, **given)).to(torch.float32)
    source: Any = seen(student, pipe)
    decode = replace(source.teacher.decode, scale=SCALES[student.contract["details"]["pipeline"]], shift=0.0)
    return drawn(replace(source, teacher=replace(source.teacher, decode=decode)))


def nodes(student: Student, file: str, weights: str) -> dict[str, Any]:
    """The nodes that load: a checkpoint, or the base and a LoRA; and one for models that predict v."""
    details = student.contract["details"]
    published = PUBLISHED.get(str(details["model"]), f"{card.named(str(details['model']))}.safetensors")
    made = {"load": node("CheckpointLoaderSimple", ckpt_name=file if weights == "checkpoint" else published)}
    model = ["load", 0]
    if weights == "lora":
        made["lora"] = node("LoraLoaderModelOnly", model=model, lora_name=file, strength_model=1.0)
        model = ["lora", 0]
    if details["scheduler"]["prediction_type"] == "v_prediction":
        zero = bool(details["scheduler"]["rescale_betas_zero_snr"])
        made["v"] = node("ModelSamplingDiscrete", model=model, sampling="v_prediction", zsnr=zero)
        model = ["v", 0]
    return {"nodes": made, "model": model, "clip": ["load", 1], "vae": ["load", 2]}


def sigmas(student: Student) -> list[float]:
    """sigma / alpha of its calls; infinite in pure noise."""
    alpha, sigma = student.source.teacher.schedule(torch.tensor(student.times, dtype=torch.float64))
    return (sigma / alpha).tolist()


def size(student: Student) -> tuple[int, int]:
    """Height and width of the image."""
    height, width = student.contract["details"]["resolution"]
    return height, width


def sampler(student: Student) -> str:
    """By its name in ComfyUI."""
    return "euler" if ode(student) else "lcm"


def ends(student: Student) -> bool:
    """Whether the first call is at the last timestep of the table."""
    schedule = student.source.teacher.schedule
    assert isinstance(schedule, Discrete), "checked"
    return lcm.timesteps(student)[0] + 1 == len(schedule.alphas_cumprod)


def call(file: str, weights: str) -> str:
    """How it is opened."""
    place = "checkpoints" if weights == "checkpoint" else "loras"
    base = "" if weights == "checkpoint" else ", choose your file of the base model in its first node,"
    return f"```text\nPut {file} into ComfyUI/models/{place}, open {WORKFLOW} in ComfyUI{base} and run it.\n```"
