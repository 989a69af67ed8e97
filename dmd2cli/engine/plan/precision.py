"""How a GPU's autocast differs from a CPU's, for rehearsals that run as if on a CPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

FLOAT32 = tuple((place, name) for place in (F, torch) for name in ("group_norm", "layer_norm", "softmax"))
"""Of what CUDA's autocast computes in float32 and a CPU's does not: norms and softmax, what networks are made of."""


@contextmanager
def cuda() -> Iterator[None]:
    """Inside, autocast of the CPU keeps to CUDA's list of float32 operations, as far as FLOAT32 has it.

    The functions themselves are exchanged: a TorchFunctionMode is off during a backward pass, and so in all that
    activation checkpointing computes again.
    """
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")       # of a kernel that is not run
        for place, name in FLOAT32:
            stack.enter_context(patch.object(place, name, in_float32(getattr(place, name))))
        yield


def in_float32(func: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its tensors made float32 under autocast."""

    @wraps(func)
    def called(*args: Any, **kwargs: Any) -> Any:
        if torch.is_autocast_enabled("cpu"):
            args = tuple(a.float() if isinstance(a, Tensor) else a for a in args)
            kwargs = {k: a.float() if isinstance(a, Tensor) else a for k, a in kwargs.items()}
        return func(*args, **kwargs)

    return called


def as_on(kind: str) -> AbstractContextManager[Any]:
    """The mode for a type of device."""
    return cuda() if kind == "cuda" else nullcontext()
