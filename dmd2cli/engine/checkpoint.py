"""Checkpoints: the whole state in, the whole state out; written whole or not at all, and hashed.

    checkpoints/step-00001000/   *.safetensors    torch.distributed.checkpoint in its safetensors storage
                                 manifest.json    step, newest logged values, versions, SHA-256 of every file
    checkpoints/latest, best     the name of the newest, and of the best by run.keep.by

The safetensors storage is chosen over DCP's own because that one keeps its metadata in a pickle.

There is no random state and no loader state in them: both are functions of the step. A function with a `group` is
called on every rank of it (gloo, all ranks of the job); what fails on one of them is raised on all.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_state
from torch.distributed.checkpoint.state_dict_saver import save as save_state

from dmd2cli import __version__
from dmd2cli.engine import retention
from dmd2cli.engine.agreement import agree, leads, whole_or_nothing
from dmd2cli.engine.disk import gib, room, sha256, sync, write_json, write_text
from dmd2cli.engine.stored import MANIFEST, latest, manifest, name, newest, seal, steps, verify
from dmd2cli.errors import UserError
from dmd2cli.recipe_health import SCORE
from dmd2cli.recipe_parts import Keep

__all__ = [
    "MANIFEST", "latest", "load", "manifest", "name", "needed", "newest", "room", "save", "settle", "sha256", "steps",
    "verify", "write_json", "write_text",
]  # fmt: skip

FILE_BYTES = 1 << 30
"""About as many bytes of tensors go into one file, which the storage puts together in memory before it writes."""

warnings.filterwarnings("ignore", message="torch.distributed is disabled")      # that is what no_dist=True says


def save(
    folder: Path,
    step: int,
    state: Mapping[str, Any],
    keep: Keep,
    values: Mapping[str, float],
    group: ProcessGroup | None = None,
) -> None:
    """Write folder/step-N, move `latest` and `best`, drop what `keep` does not hold. state: nested dicts of tensors.

    Raises UserError if the disk is full or not writable, and the checkpoints before stay as they were; and, when all
    is written, if keep.by is a value that is never logged.
    """
    draft, tensors = folder / f".{name(step)}.tmp", flat(state)
    with whole_or_nothing(draft, step, group):
        if leads(group):
            retention.tidy(folder)
            room(folder, needed(state), f"saving step {step}")
            draft.mkdir(parents=True)
    with whole_or_nothing(draft, step, group):
        storage = HuggingFaceStorageWriter(str(draft), _files(tensors), save_distributed=True)
        whole = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
        save_state(whole, storage_writer=storage, process_group=group, no_dist=group is None)
    with whole_or_nothing(draft, step, group):
        if leads(group):
            _finish(draft, step, values, needed(state), group.size() if group else 1)
            retention.put(draft, folder / name(step))
            sync(folder)
            write_text(folder / "latest", name(step))
            _retain(folder, step, keep)


def flat(state: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """{dotted name: tensor} of nested dicts, the names as in a checkpoint."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def needed(state: Mapping[str, Any]) -> int:
    """Bytes of a checkpoint over all ranks, but for headers: what is replicated is written once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in flat(state).values())


def _files(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Number of the file that a tensor goes into, from 1; every rank writes its shards to files of its own."""
    numbers, size = {}, 0
    for key, tensor in tensors.items():
        numbers[key] = 1 + size // FILE_BYTES
        size += tensor.numel() * tensor.element_size()
    return numbers


def _finish(draft: Path, step: int, values: Mapping[str, float], least: int, ranks: int) -> None:
    """Bring every file to the disk, hash it, and write the manifest, which says of itself whether it is whole."""
    files = sorted(draft.iterdir())
    if (size := sum(file.stat().st_size for file in files)) < least:
        raise UserError(
            f"{draft.parent}: saving step {step} failed: {gib(size)} of {gib(least)} are there; "
            "all ranks must see one folder, on a disk that the nodes share; earlier checkpoints are intact"
        )
    for file in files:
        sync(file)
    hashes, versions = {f.name: sha256(f) for f in files}, {"dmd2cli": __version__, "torch": torch.__version__}
    found = {"step": step, "values": dict(values), "versions": versions, "world_size": ranks, "bytes": size}
    write_json(draft / MANIFEST, seal(found | {"sha256": hashes}))
    sync(draft)


def _retain(folder: Path, newest: int, keep: Keep) -> None:
    """Move `best`, and drop the checkpoints up to the newest that the policy does not hold."""
    found = {step: _values(folder / name(step)) for step in steps(folder) if step <= newest}
    best = retention.best(found, keep.by) if keep.best else None
    if best is not None:
        write_text(folder / "best", name(best))
    else:
        (folder / "best").unlink(missing_ok=True)
    for step in found.keys() - retention.stay(found, keep):
        retention.drop(folder / name(step))
    if keep.best and keep.by not in (None, SCORE) and not any(keep.by in values for values in found.values()):
        known = ", ".join(sorted(found[newest])) or "none"
        raise UserError(f"run.keep.by: no logged value is called {keep.by}; there are {known}; step {newest} is saved")


def settle(folder: Path, step: int, keep: Keep) -> None:
    """Finish the last save of a run that is done, if a crash broke off after step-N had its name."""
    pointer = folder / "latest"
    if any(folder.glob(".*")) or not pointer.is_file() or pointer.read_text() != name(step):
        retention.tidy(folder)
        write_text(pointer, name(step))
        _retain(folder, step, keep)


def _values(path: Path) -> dict[str, float]:
    """The logged values of a checkpoint; none of a damaged one, which is never the best."""
    try:
        values: dict[str, float] = manifest(path)["values"]
    except UserError:
        return {}
    return values


def load(path: Path, state: dict[str, Any], group: ProcessGroup | None = None) -> dict[str, Any]:
    """Fill a state of the right shapes from path. Raises UserError if a file is missing, cut or changed.

    The number of ranks that wrote it, and how they shared the tensors, may differ from those that read it.
    """
    failure = None
    try:
        if leads(group):
            verify(path)
    except UserError as err:
        failure = err
    agree(group, failure)
    reader = HuggingFaceStorageReader(str(path))
    try:
        load_state(state, storage_reader=reader, process_group=group, no_dist=group is None)
    except (CheckpointException, RuntimeError) as err:
        if "Missing key" not in str(err):
            raise
        why = "it lacks what this version of dmd2, or this recipe, needs"
        raise UserError(f"{path}: {why}; start anew with another -o") from err
    return state
