"""The last step of every exporter: is what was written what was meant?"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from dmd2cli.errors import UserError

Dtype = Literal["fp32", "fp16"]
"""What weights are written as."""
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}

TYPICAL = {"fp32": 0.2, "fp16": 2.0}
"""Mean difference in levels of 255 that another order of the arithmetic may make, and the rounding of the weights."""


def largest_difference(
    a: UInt8[Tensor, "b 3 h w"], b: UInt8[Tensor, "b 3 h w"], out: Path, allowed: int = 0
) -> int:
    """Largest difference of two sets of images in levels of 255. Raises UserError beyond what is allowed."""
    found = int((a.int() - b.int()).abs().max())
    if found > allowed:
        raise UserError(f"{out}: loaded back it draws other images (difference {found} of 255, {allowed} allowed)")
    return found


def difference(a: UInt8[Tensor, "b 3 h w"], b: UInt8[Tensor, "b 3 h w"], out: Path, dtype: Dtype = "fp32") -> int:
    """The same between libraries, for weights written in a type. Raises UserError for a mean beyond TYPICAL.

    Few-step networks amplify rounding, so that single pixels of large images may be further off.
    """
    mean, allowed = float((a.float() - b.float()).abs().mean()), TYPICAL[dtype]
    if not mean <= allowed:
        raise UserError(f"{out}: loaded back it draws other images (mean {mean:.2f} of 255, {allowed:g} allowed)")
    return largest_difference(a, b, out, 255)


def known(dtype: str) -> None:
    """Raise UserError for a type that weights are not written in."""
    if dtype not in DTYPES:
        raise UserError(f"dtype: {dtype}: choose from {', '.join(DTYPES)}")
