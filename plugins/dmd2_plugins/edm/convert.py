"""Published EDM pickles, edm-*.pkl, as safetensors that the teacher `edm` loads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmd2_plugins.edm import pickled
from dmd2_plugins.edm.config import Config, differing, read
from dmd2_plugins.edm.network import network
from dmd2_plugins.edm.presets import PRESETS
from dmd2cli import foreign, torch_pickle
from dmd2cli.converters import Converted
from dmd2cli.errors import UserError

LICENCE = "the published EDM weights are NVIDIA's, CC BY-NC-SA 4.0"
COUNTS = (
    "img_resolution", "img_channels", "label_dim", "model_channels", "num_blocks", "channel_mult_emb",
    "channel_mult_noise", "augment_dim",
)  # fmt: skip
LISTS = ("channel_mult", "attn_resolutions", "resample_filter")
LARGEST = 4096
"""Of any size in a configuration."""


class Teacher:
    """The converter `edm`."""

    def recognises(self, source: Path) -> bool:
        """Any bare pickle: what is in it shows when it is read, and reading executes nothing."""
        return foreign.kind(source) == "pickle"

    def convert(self, source: Path) -> Converted:
        found = pickled.read(source)
        if found.class_name != "EDMPrecond":
            raise UserError(f"{source}: a network of class {found.class_name}; only EDMPrecond networks are read")
        config = checked(read(found.options, str(source)), len(found.tensors), source)
        shapes = {name: torch_pickle.shape(tensor, str(source)) for name, tensor in found.tensors.items()}
        names = matched(config, shapes, source)
        tensors = {names[name]: _float(tensor, source) for name, tensor in found.tensors.items()}
        preset, use_fp16 = preset_of(config, source), bool(found.options.get("use_fp16", False))
        details = described(config, source, LICENCE, preset, use_fp16=use_fp16)
        about = f"an EDM network, {preset or config.model_type}"
        return Converted(about, tensors, {"details": json.dumps(details)}, list(found.tensors), found.others)


def _float(recorded: Any, source: Path) -> Tensor:
    found = torch_pickle.tensor(recorded, str(source))
    if not found.is_floating_point():
        raise UserError(f"{source}: weights of type {found.dtype}; those of a published network are float32")
    return found.float()


def checked(config: Config, tensors: int, source: Path) -> Config:
    """The configuration, if its sizes are such as networks have, and the file has a tensor per block at least.

    So a damaged file cannot ask for a network that takes for ever to lay out. Raises UserError.
    """
    for key in (*COUNTS, *LISTS):
        value = getattr(config, key)
        numbers = value if isinstance(value, tuple) else (value,)
        low = 0 if key in ("label_dim", "augment_dim") else 1
        usual = all(type(n) is int and low <= n <= LARGEST for n in numbers) and len(numbers) <= 16
        if not usual or isinstance(value, tuple) != (key in LISTS) or (value == () and key != "attn_resolutions"):
            raise UserError(f"{source}: {key} of its network is no usual size; damaged, or not a published EDM network")
    if config.num_blocks * len(config.channel_mult) > tensors:
        raise UserError(f"{source}: {config.num_blocks} blocks per level and {tensors} tensors; cut, or not published")
    return config


def matched(config: Config, shapes: Mapping[str, tuple[int, ...]], source: Path) -> dict[str, str]:
    """Published name -> our name, for exactly the tensors of that network. Raises UserError naming what differs."""
    own = expected(config)
    differences = {
        "lacks": own.keys() - shapes.keys(),
        "has unknown": shapes.keys() - own.keys(),
        "has other shapes of": {name for name in own.keys() & shapes.keys() if own[name] != shapes[name]},
    }
    for what, names in differences.items():
        if names:
            raise UserError(f"{source}: {what} {listed(names)}; damaged, or not the network that it says it is")
    return {name: f"backbone.{name.removeprefix('model.')}" for name in shapes}


def expected(config: Config) -> dict[str, tuple[int, ...]]:
    """Published name -> shape, of every parameter and buffer of a network."""
    with torch.device("meta"):
        own = network(config).state_dict()
    return {f"model.{name.removeprefix('backbone.')}": tuple(value.shape) for name, value in own.items()}


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many there are."""
    names = sorted(names)
    return f"{', '.join(names[:3])} ({len(names)} in all)"


def described(config: Config, source: Path, licence: str, preset: str | None, **facts: Any) -> dict[str, Any]:
    """The details of a converted file: configuration, preset if it is one, and where it came from."""
    origin = {"file": source.name, "sha256": foreign.sha256(source), "licence": licence, **facts}
    return {"family": "edm", "config": config.json, "preset": preset, "source": origin}


def preset_of(config: Config, source: Path) -> str | None:
    """The preset with this network; of several the one whose published file it is, or None."""
    same = [name for name, preset in PRESETS.items() if not differing(preset.config, config)]
    named = [name for name in same if PRESETS[name].file == source.name]
    return (named or same)[0] if len(named or same) == 1 else None
