"""Checkpoints of one file in the original layout, as community fine-tunes come: converted by diffusers, offline."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor, nn

from dmd2_plugins.stable_diffusion.folder import Folder, readable
from dmd2cli.errors import UserError
from dmd2cli.weights import read_weights

NET, VAE = "model.diffusion_model.", "first_stage_model."
SIZED = f"{NET}label_emb.0.0.weight"
"""Only SDXL's UNet has it: its size conditions."""
CONTEXT = f"{NET}input_blocks.{{}}.1.transformer_blocks.0.attn2.to_k.weight"
WORDS = ("cond_stage_model.", "conditioner.embedders.")
OTHER = {"text_encoder": "conditioner.embedders.1.", "text_encoder_2": "conditioner.embedders.0."}
"""The text encoder of SDXL that a part is not."""


@dataclass(frozen=True)
class SingleFile:
    """Parts of a checkpoint; configurations come from a folder, and tokenizers from another, for files have none."""

    path: Path
    configs: Folder
    """Whose configurations the file has: the published ones, unless something else is said."""
    words: Folder | None = None
    """Where tokenizers are, and whatever else the file lacks."""

    @property
    def index(self) -> dict[str, Any]:
        """The pipeline's class, and library and class of each part."""
        return self.configs.index

    def has(self, part: str) -> bool:
        """Whether the pipeline has such a part."""
        return self.configs.has(part)

    def config(self, part: str) -> dict[str, Any]:
        """A part's configuration."""
        return self.configs.config(part)

    def skeleton(self, part: str) -> nn.Module:
        """A part with whatever is in its memory."""
        return self.configs.skeleton(part)

    def weights(self, part: str) -> list[Path]:
        """The file itself."""
        return [self.path]

    def check(self, part: str) -> None:
        """Raise UserError if a part that load() will be asked for is not there."""
        if part.startswith("tokenizer") or not self.holds(part):
            self.other(part).check(part)

    def holds(self, part: str) -> bool:
        """Whether the file has weights of a part."""
        prefixes = {"unet": (NET,), "vae": (VAE,)}.get(part, WORDS)
        return any(name.startswith(prefixes) for name in read(self.path))

    def load(self, part: str) -> Any:
        """A part with its weights, as float32; what the file lacks, from the folder of tokenizers."""
        if part.startswith("tokenizer") or not self.holds(part):
            return self.other(part).load(part)
        with readable(self.path, "is it a fine-tune of another model?"):
            made = self.convert(part, read(self.path))
            if missing := [name for name, p in made.named_parameters() if p.is_meta]:
                raise ValueError(f"its {part} lacks {', '.join(missing[:2])} ({len(missing)} in all)")
            return made.float()

    def convert(self, part: str, tensors: Mapping[str, Tensor]) -> nn.Module:
        """A part by diffusers' own conversion, which tells text encoders apart by width: it is shown one alone."""
        from diffusers.loaders import single_file_utils

        convert: Any = single_file_utils.create_diffusers_clip_model_from_ldm
        options = {"config": str(self.configs.path), "subfolder": part, "local_files_only": True}
        kind, other = self.configs.kind(part), OTHER.get(part, NET)
        given = {name: value for name, value in tensors.items() if not name.startswith(other)}
        if part in ("unet", "vae"):
            return kind.from_single_file(dict(tensors), **options)
        return convert(kind, given, **options)

    def other(self, part: str) -> Folder:
        """Where parts are that the file lacks. Raises UserError if that is not known."""
        if self.words is None:
            how = "set teacher.text to a diffusers folder or hub name of the same family"
            raise UserError(f"{self.path.name}: a single file has no {part}; {how}")
        return self.words


def read(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint. Raises UserError for one that is broken, or that holds more than tensors."""
    if path.suffix == ".safetensors":
        return read_weights(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except pickle.UnpicklingError:
        why = "holds more than tensors, or none"
        raise UserError(f"{path}: {why}, and is not loaded; use its safetensors version") from None
    except (RuntimeError, EOFError, ValueError) as err:
        raise UserError(f"{path}: no whole checkpoint ({' '.join(str(err).split())[:120]}); fetch it again") from None
    while isinstance(found, dict) and "state_dict" in found:
        found = found["state_dict"]
    named = found.items() if isinstance(found, dict) else ()
    tensors = {name: value for name, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path}: holds no tensors by name; is it a checkpoint of Stable Diffusion?")
    return tensors


def family(tensors: Mapping[str, Tensor]) -> str:
    """sd15, sdxl, or what diffusers calls the model; "unknown" for a file in another layout."""
    from diffusers.loaders import single_file_utils

    infer: Any = single_file_utils.infer_diffusers_model_type
    if not any(name.startswith(f"{NET}input_blocks.") for name in tensors):
        found = infer(tensors)
        return "unknown" if found == "v1" else found
    if tensors[f"{NET}input_blocks.0.0.weight"].shape[1] != 4:
        return "inpainting"
    if SIZED in tensors:
        return "xl_refiner" if "conditioner.embedders.0.model.text_projection" in tensors else "sdxl"
    first = next((tensors[name] for i in range(12) if (name := CONTEXT.format(i)) in tensors), None)
    return "sd2" if first is not None and first.shape[1] == 1024 else "sd15"


def check(path: Path, wanted: str) -> dict[str, Any]:
    """What a checkpoint says of its schedule: prediction and zero_snr, by the marks of v-prediction models.

    Raises UserError for a file of another family than sd15 or sdxl, whichever is wanted.
    """
    tensors = read(path)
    found = family(tensors)
    if found in ("sd15", "sdxl") and found != wanted:
        raise UserError(f"{path.name}: is a checkpoint of {found}, not of {wanted}; set teacher.use: {found}")
    if found != wanted:
        why = "has another layout than Stable Diffusion's" if found == "unknown" else f"is of another family, {found}"
        raise UserError(f"{path.name}: {why}; choose a file of {wanted}, or a diffusers folder with use: diffusers")
    marks = {"prediction": "v" if "v_pred" in tensors else None, "zero_snr": True if "ztsnr" in tensors else None}
    return {name: value for name, value in marks.items() if value is not None}
