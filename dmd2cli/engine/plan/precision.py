"""How a GPU's autocast differs from a CPU's, for rehearsals that run as if on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

FLOAT32 = frozenset({F.group_norm, F.layer_norm, F.softmax, torch.group_norm, torch.layer_norm, torch.softmax})
"""Of what CUDA's autocast computes in float32 and a CPU's does not: norms and softmax, what networks are made of."""


class Cuda(TorchFunctionMode):
    """Inside, autocast of the CPU keeps to CUDA's list of float32 operations, as far as FLOAT32 has it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in FLOAT32 and torch.is_autocast_enabled("cpu"):
            args = [a.float() if isinstance(a, Tensor) else a for a in args]
        return func(*args, **(kwargs or {}))


def as_on(kind: str) -> AbstractContextManager[Any]:
    """The mode for a type of device."""
    return Cuda() if kind == "cuda" else nullcontext()
