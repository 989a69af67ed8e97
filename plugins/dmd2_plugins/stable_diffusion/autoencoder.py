"""Whether the VAEs that options name fit, before anything is drawn with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dmd2_plugins.stable_diffusion.folder import Folder, find
from dmd2cli.errors import UserError

if TYPE_CHECKING:
    from dmd2_plugins.stable_diffusion.options import Options

TINY = "AutoencoderTiny"


def autoencoders(options: Options, channels: int) -> None:
    """Raise UserError if `vae` or `tiny` is not there, is of the other kind, or has latents of other channels."""
    for option in ("vae", "tiny"):
        if (ref := getattr(options, option)) is not None:
            check(option, ref, channels)


def check(option: str, ref: str, channels: int) -> None:
    """The same of one of them."""
    try:
        found = find(ref)
    except UserError as err:
        raise UserError(f"{option}: {err}") from err
    if isinstance(found, Path):
        raise UserError(f"{option}: {ref} is a file; name a diffusers folder, or a model of the hub")
    inner = found.path / "vae"
    config = Folder(inner if inner.is_dir() else found.path, advice=found.advice).json("config.json")
    kind = str(config.get("_class_name"))
    if (kind == TINY) != (option == "tiny"):
        wanted = f"a small decoder, of the class {TINY}" if option == "tiny" else "a full VAE"
        raise UserError(f"{option}: {ref} is of the class {kind}; name {wanted}")
    if (held := config.get("latent_channels", 4)) != channels:
        raise UserError(f"{option}: {ref} has latents of {held} channels, and this model's have {channels}")
