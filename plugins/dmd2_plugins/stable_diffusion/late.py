"""Modules that are loaded when they are first needed: text encoders and VAEs, which cached data does without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Late(nn.Module):
    """Holds a place on a device, in a type, for a frozen module that `load` makes. Moves like any module."""

    place: torch.Tensor

    def __init__(self, load: Callable[[], nn.Module], dtype: str = "fp32") -> None:
        """load: may raise UserError, and then does so at the first use. dtype: fp32, bf16 or fp16."""
        super().__init__()
        self.load = load
        self.register_buffer("place", torch.empty(0, dtype=DTYPES[dtype], device="cpu"), persistent=False)
        self.part: Any = None

    def get(self) -> Any:
        """The module, where it is to be."""
        if self.part is None:
            self.part = nn.Module.to(self.load().eval().requires_grad_(False), self.place.device, self.place.dtype)
        return self.part

    def exact(self) -> None:
        """Go on in float32, with weights that are read again: those of a smaller type were rounded, or overflowed."""
        self.part = None
        self.to(torch.float32)

    @property
    def loaded(self) -> bool:
        """Whether it takes memory yet."""
        return self.part is not None


def held(module: nn.Module, dtype: str) -> Late:
    """A module that is there already, in a type."""
    found = Late(lambda: module, dtype)
    found.part = nn.Module.to(module.eval().requires_grad_(False), DTYPES[dtype])  # diffusers' own `to` warns
    return found
