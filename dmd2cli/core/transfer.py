"""From the host to a device without waiting for what the device is doing."""

from __future__ import annotations

import torch
from torch import Tensor


def onto(x: Tensor, device: torch.device) -> Tensor:
    """x on a device. To a GPU by way of pinned memory: a copy from any other would wait until the GPU is idle."""
    pinned = x.pin_memory() if device.type == "cuda" and x.device.type == "cpu" else x
    return pinned.to(device, non_blocking=True)
