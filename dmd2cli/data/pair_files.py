"""Noise-image pairs on disk ([DMD] Sec. 3.3): shards that say what they are, and a manifest of those in a folder.

    pairs-000003000.safetensors    noise, x: float32 (n, *shape), of the pairs 3000, 3001, ...; its metadata has
                                   their conditions and the contract, so that a shard copied elsewhere is enough
    manifest.json                  the contract, the range that is wanted, size and SHA-256 of every shard there is

The contract is what pair i is a function of, besides i: teacher by name and options, its shape, schedule
and fingerprint, sampler with all of its options, guidance, seed, prompts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dmd2cli.core.noise import NoiseSchedule
from dmd2cli.errors import UserError
from dmd2cli.protocols import Sampler, Teacher

FORMAT = 1
MANIFEST, METADATA = "manifest.json", "dmd2_pairs"
SAMPLED = 64
"""Values of each tensor that a fingerprint reads: enough to tell networks apart, and cheap for gigabytes."""


@dataclass(frozen=True)
class Shard:
    """A file with the pairs first ... first + n - 1, as a manifest lists it. size: of the file, in bytes."""

    first: int
    n: int
    size: int
    sha256: str

    @property
    def stop(self) -> int:
        """The number after that of its last pair."""
        return self.first + self.n

    @property
    def name(self) -> str:
        """Its file in the folder."""
        return shard_name(self.first)


def shard_name(first: int) -> str:
    """The file whose first pair is number `first`."""
    return f"pairs-{first:09d}.safetensors"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, its shards as Shard. UserError if there is none, it is cut, or of a newer dmd2."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of pairs; make it with dmd2 pairs RECIPE -o {folder} -n N")
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder}: holds no pairs (no {MANIFEST}); make some with dmd2 pairs RECIPE -o {folder} -n N")
    found = parse_manifest(folder)
    if found is None:
        raise UserError(f"{folder / MANIFEST}: cut short or changed; run dmd2 pairs again to write it anew")
    return found


def parse_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest, or None if it is not there or damaged. UserError if it is of a newer dmd2."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        check_format(folder / MANIFEST, found["format"])
        shards = [Shard(**shard) for shard in found["shards"]]
        return {**found, "contract": dict(found["contract"]), "n": int(found["n"]), "shards": shards}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_header(path: Path) -> dict[str, Any] | None:
    """What a shard says of itself: contract, first, conditions. None if it is damaged or something else.

    Raises UserError if a newer dmd2 made it.
    """
    try:
        with safe_open(path, "pt") as file:
            found = json.loads((file.metadata() or {})[METADATA])
            check_format(path, found["format"])
            parts = [file.get_slice(name) for name in ("noise", "x")]
            shape = [len(found["conditions"]), *found["contract"]["shape"]]
            whole = all(part.get_shape() == shape and part.get_dtype() == "F32" for part in parts)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
    return found if whole and shard_name(found["first"]) == path.name else None


def check_format(path: Path, version: int) -> None:
    """Raise UserError if a newer dmd2 wrote this."""
    if version > FORMAT:
        raise UserError(f"{path}: pairs of format {version}, newer than this dmd2 reads; pip install -U dmd2cli")


# -- what makes two sets the same ------------------------------------------------------------------------------


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over names, shapes and some values of every tensor of a module.

    Values are rounded to bfloat16, so that a teacher loaded in bfloat16 has the fingerprint that it has in float32.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(_some(tensor).to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()


def _some(tensor: Tensor) -> Tensor:
    """At most SAMPLED values, evenly spaced from the first to the last."""
    n = min(SAMPLED, tensor.numel())
    places = torch.arange(n) * max(tensor.numel() - 1, 0) // max(n - 1, 1)
    return tensor.detach().reshape(-1)[places.to(tensor.device)]


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
