"""How long something takes to draw: latency of whole batches with percentiles, images a second, peak memory."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from dmd2cli.draws import Draws
from dmd2cli.engine import room
from dmd2cli.protocols import Raw

WARM = 2
"""Batches before the clock runs: kernels are chosen, text encoders loaded."""
PERCENTILES = (50, 90, 99)
PROMPT = "a photograph of a red fox in the snow"
"""What is drawn where prompts are read; all are padded to one length."""


def timed(source: Draws, batch: int, repeats: int) -> dict[str, Any]:
    """{"batch", "nfe", "images_per_s", "p50_s", "p90_s", "p99_s", "peak_bytes"} of one source, warm.

    Seconds are the clock's for a whole batch, from conditions to images in the CPU's memory. peak_bytes: of tensors on
    a GPU, of the whole process on a CPU; None where the system does not say.
    """
    raw: Sequence[Raw] = [PROMPT] * batch if source.reads.prompts else source.conditions(batch)
    for _ in range(WARM):
        once(source, raw)
    reset_peak(source.device)
    found = [once(source, raw) for _ in range(repeats)]
    speed = {"images_per_s": batch / statistics.median(found), **percentiles(found)}
    return {"batch": batch, **source.cost, **speed, "peak_bytes": room.peak(source.device)}


def once(source: Draws, raw: Sequence[Raw]) -> float:
    """Seconds of one batch; it ends with a copy to the CPU, which waits for a GPU."""
    started = time.perf_counter()
    for _ in source.draw(raw, 0, batch=len(raw)):
        pass
    return time.perf_counter() - started


def percentiles(latency: Sequence[float]) -> dict[str, float]:
    """{"p50_s", "p90_s", "p99_s"} of some seconds."""
    shares = statistics.quantiles(latency, n=100, method="inclusive") if len(latency) > 1 else [latency[0]] * 99
    return {f"p{p}_s": shares[p - 1] for p in PERCENTILES}


def reset_peak(device: torch.device) -> None:
    """Peak memory is measured from here, where the system can do that."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif (place := Path("/proc/self/clear_refs")).exists():
        with suppress(OSError):                            # a container may forbid it: the peak is then that of all
            place.write_text("5")


def hardware(device: torch.device, threads: int | None = None) -> str:
    """What was measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} CPU cores ({platform.machine()}), {threads or torch.get_num_threads()} threads"
