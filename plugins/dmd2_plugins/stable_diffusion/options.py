"""The options of the teachers, and the models on disk that they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dmd2_plugins.stable_diffusion.folder import SD15, SDXL, SHIPPED, Folder, find
from dmd2_plugins.stable_diffusion.lora import Lora
from dmd2_plugins.stable_diffusion.single_file import SingleFile, check
from dmd2cli.errors import UserError

DEFAULTS = {"sd15": SD15, "sdxl": SDXL}
"""Teacher -> the model it is, unless another is named."""

PLACES = ("model", "config", "text", "vae", "tiny")
"""Options that may be local paths."""


@dataclass(frozen=True)
class Options:
    """What a recipe says of a teacher. Models are diffusers folders or names in the local hub cache."""

    model: str | None = None
    """Folder, hub name, or (sd15, sdxl) a single-file checkpoint, .safetensors or .ckpt."""
    revision: str | None = None
    """Branch, tag or commit, for a hub name."""
    variant: str | None = None
    """Of the weights' files, such as fp16; null = the plain ones, or what is there."""
    config: str | None = None
    """For a single file: the model whose configuration it has; null = the published one."""
    text: str | None = None
    """The model whose tokenizers and text encoders are used; needed for the tokenizers of a single file."""
    vae: str | None = None
    """Another VAE of the same latents."""
    tiny: str | None = None
    """A small decoder: TAESD, TAESDXL."""
    lora: Sequence[Lora] = ()
    """Fused into the base: path of a safetensors file, and scale (1)."""
    resolution: int | tuple[int, int] | None = None
    """Pixels of a side, or height and width; null = what the network was trained for."""
    negative: str | None = None
    """Prompt of the null condition; null = the empty prompt, or zeros for SDXL."""
    prediction: Literal["eps", "v", "flow"] | None = None
    """What the network predicts; null = as the scheduler's configuration says."""
    zero_snr: bool | None = None
    """Whether the table ends in pure noise; null = as the scheduler's configuration says."""
    shift: float | None = None
    """Of flow matching; null = as the scheduler's configuration says."""
    text_tokens: int | None = None
    """Of a prompt that T5 reads; null = the default of the pipeline."""
    text_dtype: Literal["fp32", "bf16"] = "fp32"
    vae_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    tile_above: int = 1536
    """Images with a longer side are decoded in tiles, pixels."""
    skeleton: Mapping[str, Any] | None = None
    """Details of a student: its network without weights. Empty: that of these options."""

    @property
    def given(self) -> dict[str, Any]:
        """What overrides the scheduler's configuration."""
        return {"prediction": self.prediction, "zero_snr": self.zero_snr, "shift": self.shift}

    def placed(self, name: str) -> Options:
        """The same with the default model filled in and absolute paths. Raises UserError without a model."""
        model = self.model or DEFAULTS.get(name)
        if model is None:
            raise UserError(f"model: {name} needs the name of one: a diffusers folder, or a model of the hub")
        named = replace(self, model=model)
        paths: dict[str, Any] = {key: absolute(value) for key in PLACES if (value := getattr(named, key))}
        loras: list[Any] = [{**one, "path": absolute(one["path"])} for one in self.lora]
        return replace(named, **paths, lora=loras)

    @property
    def json(self) -> dict[str, Any]:
        """All that is not the default, for a student artefact."""
        blank = asdict(Options())
        mine = asdict(self) | {"lora": tuple(self.lora)}
        return {key: value for key, value in mine.items() if key != "skeleton" and value != blank[key]}


def absolute(ref: str) -> str:
    """A local path in full; a hub name as it is."""
    path = Path(ref).expanduser()
    return str(path.resolve()) if path.exists() else ref


@dataclass(frozen=True)
class Model:
    """The parts of a teacher on disk, text from another model if that is asked."""

    base: Folder | SingleFile
    words: Folder | None = None

    def of(self, part: str) -> Folder | SingleFile:
        """Where a part is."""
        return self.words if self.words and part.startswith(("text_encoder", "tokenizer")) else self.base

    def has(self, part: str) -> bool:
        """Whether there is such a part."""
        return self.of(part).has(part)

    def load(self, part: str) -> Any:
        """A part with its weights, as float32."""
        return self.of(part).load(part)

    def check(self, part: str) -> None:
        """Raise UserError if there is none."""
        self.of(part).check(part)


def opened(name: str, options: Options) -> tuple[Model, dict[str, Any]]:
    """The model that options name, and what its weights' file says of the schedule.

    Raises UserError if it is not there: nothing is downloaded.
    """
    assert options.model is not None, "placed"
    found = find(options.model, options.revision, options.variant)
    words = folder(options.text, "text") if options.text else None
    if isinstance(found, Folder):
        found.json("model_index.json")
        return Model(found, words), {}
    if name not in DEFAULTS:
        raise UserError(f"{found.name}: a single file says too little of itself; set teacher.use: sd15 or sdxl")
    marks = check(found, name)
    configs = folder(options.config, "config") if options.config else Folder(SHIPPED / name)
    return Model(SingleFile(found, configs, words or usual(name))), marks


def folder(ref: str, option: str) -> Folder:
    """A diffusers folder. Raises UserError for a file."""
    found = find(ref)
    if isinstance(found, Path):
        raise UserError(f"{option}: {ref} is a file; name a diffusers folder, or a model of the hub")
    return found


def usual(name: str) -> Folder | None:
    """The family's own model, if it is in the local hub cache."""
    try:
        return folder(DEFAULTS[name], "text")
    except UserError:
        return None
