"""What makes a teacher besides its weights: read from a model on disk, or from the details of a student."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dmd2_plugins.stable_diffusion import clock as clocks
from dmd2_plugins.stable_diffusion.autoencoder import autoencoders
from dmd2_plugins.stable_diffusion.clock import Clock
from dmd2_plugins.stable_diffusion.family import LENGTHS, SD, XL, Family, family
from dmd2_plugins.stable_diffusion.folder import SHIPPED, Folder
from dmd2_plugins.stable_diffusion.identity import identity
from dmd2_plugins.stable_diffusion.options import DEFAULTS, Model, Options, opened
from dmd2cli.errors import UserError

EXPECTED = {"sd15": SD, "sdxl": XL}
"""Teacher -> its family; `diffusers` takes all."""

LOOSE = ("text", "vae", "tiny", "config", "text_dtype", "vae_dtype", "tile_above")
"""Options that may be others than the recorded ones of a student."""

INHERITED = "whose use restrictions a student inherits; a fine-tune of it may have a licence of its own"
LICENCES = {
    "sd15": f"base model: CreativeML OpenRAIL-M, {INHERITED}",
    "sdxl": f"base model: CreativeML Open RAIL++-M, {INHERITED}",
    "diffusers": "that of the base model: look it up where the model comes from",
}


@dataclass(frozen=True)
class Spec:
    """A teacher without weights."""

    name: str
    """sd15, sdxl or diffusers."""
    options: Options
    family: Family
    clock: Clock
    details: Mapping[str, Any]
    """What a student artefact records. JSON values."""

    @property
    def config(self) -> dict[str, Any]:
        """Of the network."""
        return dict(self.details["config"])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        height, width = self.details["resolution"]
        return height, width

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one sample x."""
        latents = self.details["latents"]
        height, width = (side // latents["factor"] for side in self.size)
        return latents["channels"], height, width

    @property
    def null(self) -> str | None:
        """The prompt of the null condition; None for zeros."""
        return self.details["null"]

    @property
    def length(self) -> int:
        """Tokens of a prompt that T5 reads."""
        return self.options.text_tokens or LENGTHS.get(self.details["pipeline"], 256)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one row of encoded text."""
        return self.family.shapes(self.config, self.length)


def revived(name: str, details: Mapping[str, Any], over: Mapping[str, Any] | None = None) -> Spec:
    """From the details of a student. over: options that take the place of the recorded ones.

    Raises UserError for those of another teacher, and for options that are what the student is.
    """
    if details.get("family") != name:
        raise UserError(f"student: was distilled from {details.get('family')!r}, not from {name}")
    over = over or {}
    if fixed := [key for key in over if key not in LOOSE]:
        raise UserError(f"{fixed[0]}: is what the student was trained with; {', '.join(LOOSE)} may be others")
    options = Options(**{**details["options"], "model": details["model"], **over})
    autoencoders(options if {"vae", "tiny"} & over.keys() else Options(), details["latents"]["channels"])
    return Spec(name, options, family(details["config"]), clocks.read(details["scheduler"]), details)


def absent(name: str, options: Options) -> tuple[Model, dict[str, Any]]:
    """The model that options name; the published configuration where it is not there, for plans."""
    try:
        return opened(name, options)
    except UserError:
        if options.model != DEFAULTS.get(name):
            raise
        return Model(Folder(SHIPPED / name)), {}


def described(name: str, options: Options, model: Model, marks: Mapping[str, Any], weights: bool = True) -> Spec:
    """From a model on disk. weights: whether its weights are there to be identified.

    Raises UserError for a model of another family, an image size that the VAE cannot have, or a scheduler that
    does not go with the network.
    """
    index = model.base.index
    part = next((part for part in ("unet", "transformer") if model.base.has(part)), None)
    if part is None:
        raise UserError(f"{options.model}: a {index.get('_class_name')} has neither unet nor transformer")
    config = plain(model.base.config(part))
    found = family(config)
    if found is not EXPECTED.get(name, found):
        other = next(other for other in EXPECTED if EXPECTED[other] is not EXPECTED[name])
        use = other if found is EXPECTED[other] else "diffusers"
        raise UserError(f"{options.model}: is not a model of {name}; set teacher.use: {use}")
    latents = codec(model.base.config("vae"), config)
    size = resolution(options, config, latents["factor"])
    autoencoders(options, latents["channels"])
    sides = [side // latents["factor"] for side in size]
    _, rows, columns = found.features(config, *sides)
    given = {**marks, **{key: value for key, value in options.given.items() if value is not None}}
    clock = clocks.read(model.base.config("scheduler"), given, rows * columns)
    zeros = found.null is None and index.get("force_zeros_for_empty_prompt", True)
    details = {
        "family": name,
        "model": options.model,
        "pipeline": index["_class_name"],
        "config": config,
        "scheduler": dict(clock.config),
        "prediction": clock.prediction,
        "resolution": list(size),
        "latents": latents,
        "null": options.negative if options.negative is not None else (None if zeros else ""),
        "licence": LICENCES[name],
        "options": {key: value for key, value in options.json.items() if key != "model"},
    }
    if weights:
        details["sha256"] = identity(model.base.weights(part))
    return Spec(name, options, found, clock, json.loads(json.dumps(details)))


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without where it came from."""
    return {key: value for key, value in config.items() if not key.startswith("_") or key == "_class_name"}


def codec(vae: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Channels and size of the latents, and their units."""
    packed = 4 if config["_class_name"] == "FluxTransformer2DModel" else 1
    return {
        "channels": config["in_channels"] // packed,
        "factor": 2 ** (len(vae["block_out_channels"]) - 1),
        "scale": vae.get("scaling_factor", 0.18215),
        "shift": vae.get("shift_factor") or 0.0,
    }


def resolution(options: Options, config: Mapping[str, Any], factor: int) -> tuple[int, int]:
    """Height and width in pixels. Raises UserError for sides that latents cannot have."""
    asked = options.resolution
    if asked is None:
        side = config.get("sample_size") or 128
        asked = side * factor if isinstance(side, int) else (side[0] * factor, side[1] * factor)
    height, width = (asked, asked) if isinstance(asked, int) else tuple(asked)
    check_size(height, width, config, factor, "resolution: ")
    return height, width


def check_size(height: int, width: int, config: Mapping[str, Any], factor: int, where: str = "") -> None:
    """Raise UserError for sides in pixels that latents cannot have, or the network not read."""
    unit = factor * (1 if config["_class_name"].startswith("UNet") else config.get("patch_size") or 2)
    unit = 2 * factor if config["_class_name"] == "FluxTransformer2DModel" else unit
    if height < unit or width < unit or height % unit or width % unit:
        raise UserError(f"{where}{height} x {width} pixels; sides must be multiples of {unit}")
    most = unit * (config.get("pos_embed_max_size") or max(height, width))
    if max(height, width) > most:
        raise UserError(f"{where}{height} x {width} pixels; this network has positions for sides of at most {most}")
