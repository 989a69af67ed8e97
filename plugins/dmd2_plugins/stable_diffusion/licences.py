"""Licences of the weights that the DMD2 authors have published."""

from __future__ import annotations

DMD2 = "CC BY-NC 4.0, not for commercial use"
"""Of tianweiy/DMD2 on the hub."""
SDXL = "Open RAIL++-M"
"""Of stabilityai/stable-diffusion-xl-base-1.0."""


def of(file: str) -> str:
    """Of a student, by the name of its file."""
    if file.startswith("dmd2_"):
        return DMD2
    return f"that of whoever trained it; the weights of the DMD2 release are under {DMD2}"
