"""LoRA files of other programs, read in the layouts of diffusers, peft and kohya."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmd2cli.errors import UserError
from dmd2cli.fuse_lora import OTHER_BASE, LayerUpdate, LoraFile
from dmd2cli.weights import read_metadata, read_weights

DIFFUSERS_NAME = "pytorch_lora_weights.safetensors"
"""The name that diffusers gives the file in a folder."""
PEFT_NAME, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""The names that peft gives the file in a folder, and its configuration beside it."""

KOHYA = re.compile(r"(lora_(?:unet|te[12]?)_[^.]+)\.(.+)")
"""A key of kohya's layout: a layer with underscores in place of dots, and one of its tensors."""
KOHYA_TENSORS = {"lora_down.weight": "down", "lora_up.weight": "up", "dora_scale": "magnitude", "alpha": "alpha"}
PEFT = re.compile(
    r"(.+)\.(?:(alpha)|(lora_A|lora_B|lora_magnitude_vector)(?:\.(?!weight$|bias$)[\w-]+)?(\.weight|\.bias)?)"
)
"""A key of peft's layout: a layer, one of its tensors, perhaps the name of an adapter, and weight or bias."""
PEFT_TENSORS = {"lora_A": "down", "lora_B": "up", "lora_magnitude_vector": "magnitude"}
OTHER_TYPES = {
    r"\.hada_w": "LoHa", r"\.lokr_w": "LoKr", r"\.(lora_mid|lokr_t|hada_t)": "Tucker decomposition", r"\.b?oft_": "OFT",
    r"\.(diff|diff_b|set_weight)$": "difference of whole weights", r"\.(a1|a2|b1|b2)\.weight$": "GLoRA",
    r"\.vera_": "VeRA", r"\.ia3_|\.on_input$": "IA3", r"\.lora_embedding_": "LoRA of an embedding",
}  # fmt: skip
"""Pattern of a key -> the type of adapter that has such keys, of those that are refused by name."""

Layers = dict[str, dict[str, Tensor]]
"""Layer -> down, up, alpha, magnitude or bias -> tensor."""


def read_lora(path: Path, pipeline: Any, config: Mapping[str, Any]) -> LoraFile:
    """Read a LoRA for a pipeline class of diffusers whose network has a configuration.

    Known are the layouts of diffusers (new and old), of peft (`base_model.model.`, the name of an adapter, or bare
    layers) and of kohya (blocks named by diffusers or by the original code), and those that diffusers converts for its
    transformers. Raises UserError for a file that is missing or no LoRA, for types other than LoRA and DoRA, which it
    names, and for parts that the pipeline does not have.
    """
    if not hasattr(pipeline, "lora_state_dict"):
        name = pipeline.__name__
        raise UserError(f"lora: {path}: diffusers has no LoRAs for {name}; fuse it yourself, or leave it out")
    metadata, tensors = read_metadata(path), read_weights(path)
    for key in tensors:
        if kind := next((kind for pattern, kind in OTHER_TYPES.items() if re.search(pattern, key)), None):
            raise UserError(f"{path}: {key}: {kind}, and LoRA and DoRA alone can be read; fuse it into the model first")
    known_parts: list[str] = pipeline._lora_loadable_modules
    network = next(part for part in known_parts if not part.startswith("text_encoder"))
    options = {"unet_config": _with_attributes(config)} if network == "unet" else {}
    if tensors and network == "unet" and all(map(KOHYA.fullmatch, tensors)):
        by_part = _sort_kohya(path, tensors, pipeline, options)
    else:
        by_part = _sort_by_diffusers(path, tensors, pipeline, options, known_parts, network)
    if not by_part:
        raise UserError(f"{path}: is no LoRA (nothing in it); name a safetensors file of one")
    if foreign := sorted(by_part.keys() - set(known_parts)):
        raise UserError(f"{path}: changes the {foreign[0]}, and a {pipeline.__name__} has none; {OTHER_BASE}")
    updates: dict[str, dict[str, LayerUpdate]] = {}
    for part, layers in by_part.items():
        lora_config = _lora_config(path, metadata, part)
        updates[part] = {name: _layer_update(path, part, name, layers[name], lora_config) for name in layers}
    return LoraFile(path, updates)


def _sort_kohya(
    path: Path, tensors: Mapping[str, Tensor], pipeline: Any, options: Mapping[str, Any]
) -> dict[str, Layers]:
    """Sort the tensors of kohya's layout by part and layer.

    Diffusers is asked for the names alone, with numbers in place of tensors: it drops the magnitudes of a DoRA and
    mixes up alphas that differ.
    """
    layers = Layers()
    for key, value in tensors.items():
        name, _, tensor = key.partition(".")
        if tensor not in KOHYA_TENSORS:
            raise UserError(f"{path}: {key}: is no tensor of a LoRA; get the file again")
        layers.setdefault(name, {})[KOHYA_TENSORS[tensor]] = value
    numbered = list(layers.values())
    sides = ("down", "up")
    markers = {f"{name}.lora_{side}.weight": torch.tensor(i) for i, name in enumerate(layers) for side in sides}
    by_part: dict[str, Layers] = {}
    for key, marker in _convert_keys(path, markers, pipeline, options)[0].items():
        part, _, rest = key.partition(".")
        match = PEFT.fullmatch(_peft_key(part, rest))
        if match is None:
            raise UserError(f"{path}: {key}: is a layer that is not known; {OTHER_BASE}")
        by_part.setdefault(part, {})[match[1]] = numbered[int(marker)]
    return by_part


def _sort_by_diffusers(
    path: Path, tensors: Mapping[str, Tensor], pipeline: Any, options: Mapping[str, Any], parts: list[str], network: str
) -> dict[str, Layers]:
    """Sort the tensors of every other layout by part and layer, as diffusers names them.

    Layers without the name of a part are the network's.
    """
    without_adapter = {}
    for key, value in tensors.items():
        plain = key.removeprefix("base_model.model.")
        match = PEFT.fullmatch(plain)
        without_adapter[f"{match[1]}.{match[3]}{match[4] or ''}" if match and match[3] else plain] = value
    named, alphas = _convert_keys(path, without_adapter, pipeline, options)
    by_part: dict[str, Layers] = {}
    for key, value in {**named, **alphas}.items():
        part, _, rest = key.partition(".")
        if part not in parts and not part.startswith("text_encoder"):
            part, rest = network, key
        match = PEFT.fullmatch(_peft_key(part, rest))
        if match is None:
            raise UserError(f"{path}: is no LoRA ({key} in it); name a safetensors file of one")
        tensor = match[2] or ("bias" if match[4] == ".bias" else PEFT_TENSORS[match[3]])
        value = value.flatten() if tensor == "magnitude" else value     # peft has (1, out, 1, 1) for convolutions
        by_part.setdefault(part, {}).setdefault(match[1], {})[tensor] = value
    return by_part


def _convert_keys(
    path: Path, tensors: Mapping[str, Tensor], pipeline: Any, options: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Give tensors, and the alphas that diffusers takes out, the names that a pipeline of diffusers knows."""
    from dmd2cli.pipelines.quiet import quiet

    try:
        with quiet():
            converted = pipeline.lora_state_dict(dict(tensors), **options)
    except (ValueError, KeyError, IndexError, RuntimeError, AttributeError, TypeError) as err:
        reason = " ".join(str(err).split())[:200]
        raise UserError(f"{path}: cannot be read as a LoRA ({reason}); {OTHER_BASE}") from err
    named, alphas = converted if isinstance(converted, tuple) else (converted, None)
    return named, {key: torch.as_tensor(alpha) for key, alpha in (alphas or {}).items()}


def _peft_key(part: str, key: str) -> str:
    """Rename one key of diffusers' older layouts as peft names it; others stay as they are."""
    from diffusers.utils import state_dict_utils

    utils: Any = state_dict_utils
    if not part.startswith("text_encoder"):
        (renamed,) = utils.convert_unet_state_dict_to_peft({key: None})
        return str(renamed)
    old = utils.StateDictType.DIFFUSERS_OLD if "_lora." in key else utils.StateDictType.DIFFUSERS
    (renamed,) = utils.convert_state_dict_to_peft({key: None}, original_type=old)
    return str(renamed)


def _lora_config(path: Path, metadata: Mapping[str, str], part: str) -> dict[str, Any]:
    """Read the LoraConfig of a part from the file's metadata (diffusers) or the file beside it (peft); else {}."""
    try:
        if "lora_adapter_metadata" in metadata:
            config = json.loads(metadata["lora_adapter_metadata"])
            return {key.removeprefix(f"{part}."): config[key] for key in config if key.startswith(f"{part}.")}
        if path.name == PEFT_NAME and path.with_name(PEFT_CONFIG).is_file():
            return dict(json.loads(path.with_name(PEFT_CONFIG).read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as err:
        raise UserError(f"{path}: its configuration is not JSON of a LoRA ({err}); get the file again") from None
    return {}


def _layer_update(
    path: Path, part: str, name: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]
) -> LayerUpdate:
    """Put the tensors of a layer together; alpha is that of the layer, else the configuration's, else the rank."""
    if missing := {"down", "up"} - tensors.keys():
        raise UserError(f"{path}: {part}.{name}: its {missing.pop()} factor is missing; get the file again")
    down, up, magnitude = tensors["down"], tensors["up"], tensors.get("magnitude")
    if down.ndim < 2 or up.ndim < 2:
        raise UserError(f"{path}: {part}.{name}: its factors are no matrices; get the file again")
    try:
        alpha = float(tensors["alpha"]) if "alpha" in tensors else _configured_alpha(name, len(down), config)
    except (TypeError, ValueError, RuntimeError, re.error) as err:
        raise UserError(f"{path}: {part}.{name}: its alpha is no number ({err}); get the file again") from None
    return LayerUpdate(down, up, alpha, tensors.get("bias"), magnitude)


def _configured_alpha(name: str, rank: int, config: Mapping[str, Any]) -> float:
    """Look a layer's alpha up in a LoraConfig, by the rules of peft; the rank where it says nothing."""
    from peft.utils.other import get_pattern_key

    patterns = dict(config.get("alpha_pattern") or {})
    alpha = float(patterns.get(get_pattern_key(patterns, name), config.get("lora_alpha", rank)))
    return alpha * math.sqrt(rank) if config.get("use_rslora") else alpha


def _with_attributes(config: Mapping[str, Any]) -> Any:
    """Hand a configuration to diffusers as it reads it: with attributes in place of keys."""
    from diffusers.configuration_utils import FrozenDict

    frozen: Any = FrozenDict
    return frozen(config)
