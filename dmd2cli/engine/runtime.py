"""Where and how networks run: device, threads, precision."""

from __future__ import annotations

import os

import torch
from torch import nn

from dmd2cli.core.denoiser import Preconditioned
from dmd2cli.errors import UserError
from dmd2cli.recipe import Run


def device(name: str = "auto") -> torch.device:
    """cuda, mps or cpu, whichever is there first; or the one named. Raises UserError if that is absent."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        found = torch.device(name)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as err:
        reason = str(err).splitlines()[0]
        raise UserError(f"device '{name}' cannot be used: {reason}; try device=cpu, cuda or mps") from None
    return found


def set_threads(threads: int | None) -> int:
    """Use that many CPU threads, or by default one per core this process may run on; returns the number."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads or min(usable, torch.get_num_threads()))
    return torch.get_num_threads()


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """bfloat16 or None for float32. auto is bfloat16 only on a GPU with the matrix hardware for it."""
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if fast else None
    return torch.bfloat16 if precision == "bf16" else None


def prepare(module: nn.Module, device: torch.device, run: Run) -> nn.Module:
    """The module on its device, its backbones computing in the run's precision."""
    for part in module.modules():
        if isinstance(part, Preconditioned):
            part.autocast = autocast_dtype(run.precision, device)
    return module.to(device)
