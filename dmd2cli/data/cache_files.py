"""Encoded data on disk: see shard_files for the layout of their folder.

    encoded-000003000.safetensors    x (n, *shape): latents in model units, if there are images; cond.NAME (n, ...):
                                     conditions as Teacher.encode gives them, and null.NAME (1, ...), the null
                                     condition, if text is encoded; short rows in float32, others in half precision

The contract is what item i is a function of, besides i: teacher by name and options, what tells it from others,
whether and how latents and text are encoded, their type, seed of the posterior's samples, fingerprint of the data.
"""

from __future__ import annotations

import json
from typing import Any

from dmd2cli.data.pair_files import fingerprint
from dmd2cli.data.shard_files import Header, Kind
from dmd2cli.protocols import Teacher

COND, NULL = "cond.", "null."
SHORT = 64
"""Rows of at most so many values stay float32: sizes, labels, guidance scales."""
DETAILS, OPTIONS = ("latents", "null"), ("text", "vae", "text_tokens")
"""Of a teacher's details, and of the options in them: what its latents and conditions depend on."""


def whole(file: Any, header: Header) -> bool:
    """Has a file a row for each of its conditions, of all that its contract promises?"""
    n, contract, names = len(header["conditions"]), header["contract"], set(file.keys())
    shapes = {name: file.get_slice(name).get_shape() for name in names if not name.startswith(NULL)}
    images = [n, *contract["shape"]] if contract["latents"] else None
    return shapes.get("x") == images and all(shape[0] == n for shape in shapes.values())


ARGUMENTS = "RECIPE --data PATH (or --prompts FILE) -o {}"
CACHE = Kind("encoded", "encoded items", "dmd2_cache", 1, "dmd2 data cache", ARGUMENTS, whole)


def identity(teacher: Teacher) -> dict[str, Any]:
    """What tells a teacher from others whose latents or conditions differ. JSON values."""
    details = dict(teacher.details)
    options = {k: v for k, v in dict(details.get("options", {})).items() if k in OPTIONS}
    encoders = {**{k: details[k] for k in DETAILS if k in details}, **options}
    return {
        "shape": list(teacher.shape),
        "fingerprint": fingerprint(teacher.denoiser),
        "encoders": json.loads(json.dumps(encoders)),
    }
