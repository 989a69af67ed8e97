"""Saving while training goes on: a copy of the state in memory, and one thread that brings it to the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_leaves, tree_map

from dmd2cli.engine import checkpoint, retention
from dmd2cli.engine.agreement import agree, leads
from dmd2cli.recipe_parts import Keep


class Writer:
    """Writes the checkpoints of a run, one at a time: with `background` in a thread that ends with the write.

    The thread is no daemon: a main thread that dies leaves a checkpoint behind that is whole.
    """

    def __init__(self, folder: Path, keep: Keep, background: bool, group: ProcessGroup | None = None) -> None:
        """folder: RUN/checkpoints, from which what a crash left half written is removed. group: of all ranks, gloo.

        No group for one process. It is used by nothing else meanwhile, and its timeout is longer than the slowest
        write: ranks wait in it for the first to hash what all have written.
        """
        self.folder, self.keep, self.background, self.group = folder, keep, background, group
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        if leads(group):
            retention.tidy(folder)

    def save(
        self,
        step: int,
        state: Mapping[str, Any],
        values: Mapping[str, float],
        publish: Callable[[], None] | None = None,
    ) -> None:
        """Call publish, then write a checkpoint; every rank calls this. Returns when the state may change.

        Waits for the save before. Raises what that one failed with, and without `background` what this one does.
        """
        self.wait()
        if not self.background:
            self._write(step, state, dict(values), publish)
            return
        device = torch.cuda.current_device() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
        given = (device, step, copied(state), dict(values), publish)
        self._thread = threading.Thread(target=self._work, args=given, name=f"checkpoint of step {step}")
        self._thread.start()

    def check(self) -> None:
        """Raise what a save that has ended failed with, once; costs nothing.

        Ranks may learn of a failure some steps apart; wait() and save() tell all of them at the same step.
        """
        if self._failure is not None and (self._thread is None or not self._thread.is_alive()):
            failure, self._failure = self._failure, None
            raise failure

    def wait(self) -> None:
        """Return when all is on disk. Raises what the save failed with."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def close(self) -> None:
        """As wait(). It ends, for a write does, and collectives with dead ranks do within the group's timeout."""
        self.wait()

    def _work(self, device: int | None, *given: Any) -> None:
        try:
            with nullcontext() if device is None else torch.cuda.device(device):     # a new thread is on the first GPU
                self._write(*given)
        except BaseException as err:               # raised in the main thread by check(); DCP's is no Exception
            self._failure = err

    def _write(
        self, step: int, state: Mapping[str, Any], values: Mapping[str, float], publish: Callable[[], None] | None
    ) -> None:
        failure = None
        try:
            if leads(self.group):
                checkpoint.room(self.folder, checkpoint.needed(state), f"saving step {step}")
            if publish is not None:
                publish()
        except Exception as err:
            failure = err
        agree(self.group, failure)
        checkpoint.save(self.folder, step, state, self.keep, values, self.group)


def copied(state: Mapping[str, Any]) -> dict[str, Any]:
    """The same tree with every tensor copied to the CPU; a DTensor keeps its mesh and placements.

    From CUDA the copies go into pinned memory, all at once.
    """
    found: dict[str, Any] = tree_map(_copy, dict(state))
    for device in {x.device for x in tree_leaves(dict(state)) if x.is_cuda}:
        torch.cuda.current_stream(device).synchronize()
    return found


def _copy(x: Tensor) -> Tensor:
    held = torch.empty_like(
        x, device="cpu", pin_memory=x.is_cuda, requires_grad=False, memory_format=torch.contiguous_format
    )
    with torch.no_grad():
        _local(held).copy_(_local(x), non_blocking=x.is_cuda)
    return held


def _local(x: Tensor) -> Tensor:
    """The part of a tensor that this rank holds."""
    return x.to_local() if isinstance(x, DTensor) else x
