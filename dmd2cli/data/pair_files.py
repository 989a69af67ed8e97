"""Noise-image pairs on disk ([DMD] Sec. 3.3): see shard_files for the layout of their folder.

    pairs-000003000.safetensors    noise, x: float32 (n, *shape)

The contract is what pair i is a function of, besides i: teacher by name and options, its shape, schedule
and fingerprint, sampler with all of its options, guidance, seed, prompts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dmd2cli.core.noise import NoiseSchedule
from dmd2cli.data.shard_files import Header, Kind
from dmd2cli.protocols import Sampler, Teacher

SAMPLED = 64
"""Values of each tensor that a fingerprint reads: enough to tell networks apart, and cheap for gigabytes."""


def whole(file: Any, header: Header) -> bool:
    """Has a file noise and x for each of its conditions, in float32?"""
    shape = [len(header["conditions"]), *header["contract"]["shape"]]
    parts = [file.get_slice(name) for name in ("noise", "x")]
    return all(part.get_shape() == shape and part.get_dtype() == "F32" for part in parts)


PAIRS = Kind("pairs", "pairs", "dmd2_pairs", 1, "dmd2 pairs", "RECIPE -o {} -n N", whole)


# -- what makes two sets the same ------------------------------------------------------------------------------


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over names, shapes and some values of every tensor of a module.

    Values are rounded to bfloat16, so that a teacher loaded in bfloat16 has the fingerprint that it has in float32. A
    base that adapters share has the fingerprint that it has without them.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors(module).items()):
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(_some(tensor).to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module; of a view of a base with adapters, the base's own state under its own names."""
    adapters: Any = getattr(module, "adapters", None)
    found: dict[str, Tensor] = (module if adapters is None else adapters.base).state_dict()
    own = {name: tensor for name, tensor in found.items() if ".lora_" not in name}
    return {name.replace(".base_layer.", "."): tensor for name, tensor in own.items()}


def _some(tensor: Tensor) -> Tensor:
    """At most SAMPLED values, evenly spaced from the first to the last."""
    n = min(SAMPLED, tensor.numel())
    places = torch.arange(n) * max(tensor.numel() - 1, 0) // max(n - 1, 1)
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor          # of which each rank has a shard
    return whole.detach().reshape(-1)[places.to(tensor.device)]


def teacher_facts(teacher: Teacher) -> dict[str, Any]:
    """What a contract says of a teacher besides its name: fingerprint, schedule, shape."""
    schedule = {"type": type(teacher.schedule).__name__, "sigma_over_alpha": list(_ratios(teacher.schedule))}
    return {"shape": list(teacher.shape), "schedule": schedule, "fingerprint": fingerprint(teacher.denoiser)}


def _ratios(schedule: NoiseSchedule) -> Iterator[float]:
    """sigma / alpha at three times, to six digits: they tell two tables apart."""
    alpha, sigma = schedule(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    return (float(f"{ratio:.6g}") for ratio in (sigma / alpha).tolist())


def sampler_facts(use: str, sampler: Sampler) -> dict[str, Any]:
    """A sampler by its registered name with all of its options, defaults too."""
    return {"use": use, **json.loads(json.dumps(asdict(cast(Any, sampler))))}


def difference(held: Mapping[str, Any], asked: Mapping[str, Any], under: str = "") -> tuple[str, Any, Any] | None:
    """(dotted key, held value, asked value) of the first key that differs, or None."""
    for key in dict.fromkeys([*held, *asked]):
        old, new = held.get(key), asked.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            if (found := difference(old, new, f"{under}{key}.")) is not None:
                return found
        elif old != new:
            return f"{under}{key}", old, new
    return None
