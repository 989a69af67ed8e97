"""Checkpoints: the whole state in, the whole state out; written whole or not at all, and hashed.

    checkpoints/step-00001000/   *.safetensors    torch.distributed.checkpoint in its safetensors storage
                                 manifest.json    step, newest logged values, versions, SHA-256 of every file
    checkpoints/latest           the name of the newest

The safetensors storage is chosen over DCP's own because that one keeps its metadata in a pickle.

There is no random state and no loader state in them: both are functions of the step.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_state
from torch.distributed.checkpoint.state_dict_saver import save as save_state

from dmd2cli import __version__
from dmd2cli.errors import UserError

MANIFEST = "manifest.json"


def name(step: int) -> str:
    """The folder of a step."""
    return f"step-{step:08d}"


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def save(folder: Path, step: int, state: Mapping[str, Any], keep: int, values: Mapping[str, float]) -> None:
    """Write folder/step-N, move `latest` to it, drop all but `keep` up to it. state: nested dicts of tensors.

    Raises UserError if the disk is full or not writable; the checkpoints before stay as they were.
    """
    target, draft = folder / name(step), folder / f".{name(step)}.tmp"
    with whole_or_nothing(draft, step):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        with _single_process():
            save_state(dict(state), storage_writer=HuggingFaceStorageWriter(str(draft)), no_dist=True)
        files = {f.name: sha256(f) for f in sorted(draft.iterdir())}
        versions = {"dmd2cli": __version__, "torch": torch.__version__}
        found = {"step": step, "values": dict(values), "versions": versions, "sha256": files}
        write_json(draft / MANIFEST, found)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(draft, target)
        write_text(folder / "latest", target.name)
    for old in [s for s in steps(folder) if s <= step][:-keep]:
        shutil.rmtree(folder / name(old), ignore_errors=True)


@contextmanager
def whole_or_nothing(draft: Path, step: int) -> Iterator[None]:
    """Failures to write become one clear line, and the draft is removed."""
    try:
        yield
    except (OSError, CheckpointException) as err:
        shutil.rmtree(draft, ignore_errors=True)
        cause = err if isinstance(err, OSError) else _os_error(err)
        if cause is None:
            raise
        why = "the disk is full" if cause.errno in (errno.ENOSPC, errno.EDQUOT) else os.strerror(cause.errno or 0)
        raise UserError(f"{draft.parent}: saving step {step} failed: {why}; earlier checkpoints are intact") from err


def _os_error(err: CheckpointException) -> OSError | None:
    """The operating system's reason behind a failed collective save, if there is one."""
    for cause, _ in err.failures.values():
        chain: BaseException | None = cause
        while chain is not None:
            if isinstance(chain, OSError):
                return chain
            chain = chain.__cause__ or chain.__context__
    return None


def load(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    """Fill a state of the right shapes from path. Raises UserError if a file is missing, cut or changed."""
    verify(path)
    with _single_process():
        load_state(state, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=True)
    return state


def verify(path: Path) -> int:
    """The step of a checkpoint whose every file has its recorded hash; UserError names the one that has not."""
    found = manifest(path)
    for file, digest in found["sha256"].items():
        if not (path / file).is_file() or sha256(path / file) != digest:
            raise UserError(f"{path}: damaged checkpoint: {file} is missing, cut or changed{_others(path)}")
    return int(found["step"])


def manifest(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself. Raises UserError if that is missing or cut."""
    try:
        found = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError):
        found = {}
    if not isinstance(found, dict) or not {"step", "values", "sha256"} <= found.keys():
        raise UserError(f"{path}: not a whole checkpoint ({MANIFEST} is missing or cut){_others(path)}")
    return found


def _others(path: Path) -> str:
    other = [s for s in steps(path.parent) if name(s) != path.name]
    return f"; continue from an older one with --resume {path.parent / name(other[-1])}" if other else ""


def steps(folder: Path) -> list[int]:
    """The steps there are checkpoints of, rising."""
    return sorted(int(p.name[5:]) for p in folder.glob("step-*") if p.is_dir() and p.name[5:].isdigit())


def latest(folder: Path) -> Path | None:
    """The newest checkpoint, or None."""
    found = steps(folder)
    return folder / name(found[-1]) if found else None


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    draft = path.with_name(f".{path.name}.tmp")
    try:
        draft.write_text(text)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _single_process() -> Iterator[None]:
    """torch warns that no process group is there; that is what no_dist says."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed.*")
        yield
