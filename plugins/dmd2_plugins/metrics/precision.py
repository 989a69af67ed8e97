"""Convolutions in full float32: on GPUs of 2020 and later PyTorch rounds their inputs to TF32's 10 bits otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """For the length of a with-block."""
    cudnn: Any = torch.backends.cudnn
    new = hasattr(cudnn, "conv")                           # torch 2.9 has its own switch for convolutions
    part, name, value = (cudnn.conv, "fp32_precision", "ieee") if new else (cudnn, "allow_tf32", False)
    before = getattr(part, name)
    setattr(part, name, value)
    try:
        yield
    finally:
        setattr(part, name, before)
