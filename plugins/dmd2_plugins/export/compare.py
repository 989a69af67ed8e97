"""The last step of every exporter: is what was written what was meant?"""

from __future__ import annotations

from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from dmd2cli.errors import UserError


def largest_difference(
    a: UInt8[Tensor, "b 3 h w"], b: UInt8[Tensor, "b 3 h w"], out: Path, allowed: int = 0
) -> int:
    """Largest difference of two sets of images in levels of 255. Raises UserError beyond what is allowed."""
    found = int((a.int() - b.int()).abs().max())
    if found > allowed:
        raise UserError(f"{out}: loaded back it draws other images (difference {found} of 255, {allowed} allowed)")
    return found
