"""A LoRA in kohya's names, or in a whole UNet with peft's, as the factors of an adapter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from dmd2_plugins.stable_diffusion.spec import Spec
from dmd2_plugins.stable_diffusion.teacher import skeleton
from dmd2_plugins.stable_diffusion.unet import TARGETS
from dmd2cli.errors import UserError
from dmd2cli.recipe_parts import Lora

KOHYA, TEXT = "lora_unet_", "lora_te"
SIDES = {".lora_down.weight": "A", ".lora_up.weight": "B", ".lora_A.default.weight": "A", ".lora_B.default.weight": "B"}
SIDES |= {".lora_A.weight": "A", ".lora_B.weight": "B"}
ALPHA = ".alpha"


def is_kohya(names: Iterable[str]) -> bool:
    """Whether these are the names of a LoRA of a UNet in kohya's layout."""
    return any(name.startswith(KOHYA) for name in names)


def is_adapted(names: Iterable[str]) -> bool:
    """Whether a LoRA is in these names of a UNet."""
    return any(".lora_A." in name for name in names)


def adapter(
    source: Path, found: Mapping[str, Tensor], spec: Spec, alpha: float
) -> tuple[dict[str, Tensor], Lora, dict[str, str]]:
    """(factors by the names that peft gives them in the UNet, rank and alpha, names of the rest and what that is).

    alpha: of a file that has none and is not kohya's, whose rule is the rank. Raises UserError for one of another base,
    or of several ranks.
    """
    weights = layers(spec)
    sides, alphas, unused = sorted_out(source, found, weights, str(spec.details["model"]))
    for path, both in sides.items():
        if set(both) != {"A", "B"}:
            raise UserError(f"{source}: half of the LoRA of {path} is missing; get the file again")
    ranks = sorted({n for both in sides.values() for n in (both["A"].shape[0], both["B"].shape[1])})
    if len(ranks) != 1:
        raise UserError(f"{source}: a LoRA of several ranks ({', '.join(map(str, ranks))}); one is expected")
    otherwise = float(ranks[0]) if is_kohya(found) else alpha
    strengths = {path: alphas.get(path, otherwise) for path in sides}
    common = max(strengths.values())                       # where they differ, the difference goes into B
    tensors: dict[str, Tensor] = {}
    for path, both in sides.items():
        tensors[f"{path}.lora_A.weight"] = both["A"]
        tensors[f"{path}.lora_B.weight"] = both["B"] * (strengths[path] / common)
    return tensors, Lora(rank=ranks[0], alpha=common, targets=targets(weights, sides)), unused


def sorted_out(
    source: Path, found: Mapping[str, Tensor], weights: Mapping[str, torch.Size], model: str
) -> tuple[dict[str, dict[str, Tensor]], dict[str, float], dict[str, str]]:
    """(A and B by layer, alpha by layer, names of the rest and what that is)."""
    flat = {path.replace(".", "_"): path for path in weights}
    sides, alphas, unused = dict[str, dict[str, Tensor]](), dict[str, float](), dict[str, str]()
    for name, value in found.items():
        end = next((end for end in (*SIDES, ALPHA) if name.endswith(end)), None)
        if name.startswith(TEXT) or end is None:
            unused[name] = "of a text encoder" if name.startswith(TEXT) else "of the base"
            continue
        path = name.removesuffix(end).removeprefix(KOHYA)
        path = flat.get(path, path)
        check(source, name, value, weights.get(path), SIDES.get(end), model)
        if end == ALPHA:
            alphas[path] = float(value)
        else:
            sides.setdefault(path, {})[SIDES[end]] = value
    return sides, alphas, unused


def layers(spec: Spec) -> dict[str, torch.Size]:
    """Path of each layer of the base's UNet that can have an adapter, and the shape of its weight."""
    with torch.device("meta"):
        net = skeleton(spec.config)
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return {path: layer.weight.shape for path, layer in net.named_modules() if isinstance(layer, kinds)}


def check(source: Path, name: str, value: Tensor, weight: torch.Size | None, side: str | None, model: str) -> None:
    """Raise UserError for a tensor that the base has no place for."""
    part = {"A": slice(1, None), "B": slice(0, 1), None: slice(0, 0)}[side]
    if weight is None or value.shape[part] != weight[part]:
        have = f"has {tuple(weight)} there" if weight is not None else "has no such layer"
        why = f"{name} {tuple(value.shape)} does not fit: {model} {have}"
        raise UserError(f"{source}: {why}; name its base with model=")


def targets(weights: Mapping[str, torch.Size], paths: Mapping[str, object]) -> tuple[str, ...]:
    """The release's names of layers, if these are exactly the layers they mean; else every layer by itself."""
    meant = {path for path in weights if any(path.endswith(f".{name}") for name in TARGETS)}
    return TARGETS if meant == set(paths) else tuple(f"unet.{path}" for path in sorted(paths))
