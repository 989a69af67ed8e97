"""What a pipeline does while it draws: how often it calls its network, and whose noise its scheduler adds."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn


class Calls:
    """Counts the calls of a network in each batch of images, by a hook: nothing is taken from a scheduler's word."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.each: int | None = None
        """Calls for the last batch."""
        self.passes: float | None = None
        """Rows of one call for each image: 2 with classifier-free guidance in one batch."""

    @contextmanager
    def counted(self, images: int) -> Iterator[None]:
        """Count within, for a batch of so many images."""
        rows = list[int]()

        def note(_: nn.Module, args: Any, kwargs: Any) -> None:
            rows.append(len(next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.ndim > 1)))

        handle = self.network.register_forward_pre_hook(note, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
        self.each = len(rows)
        self.passes = round(sum(rows) / (len(rows) * images), 3) if rows else None


@contextmanager
def owned(scheduler: Any, generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Within, noise of the scheduler's steps is drawn by a generator for each image, whatever the pipeline hands on.

    Rows of a step may be several times the images, as with guidance: a generator then draws once for each.
    """
    inner = scheduler.step
    if "generator" not in inspect.signature(inner).parameters:
        yield
        return

    @wraps(inner)                                          # pipelines look at its signature
    def step(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **options: Any) -> Any:
        mine = [*generators] * (len(sample) // len(generators))
        return inner(model_output, timestep, sample, *args, **{**options, "generator": mine})

    scheduler.step = step
    try:
        yield
    finally:
        del scheduler.step
