"""Weights on disk: safetensors only, metadata as JSON strings, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dmd2cli.errors import UserError


def save_weights(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write to a neighbour first and rename, so that an interrupted write leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, draft, dict(metadata))
        draft.chmod(0o666 & ~umask())                     # the library makes its files private
        os.replace(draft, path)
    except SafetensorError as err:
        raise UserError(f"{path}: cannot be written ({err}); free some space, or choose another place") from err
    finally:
        draft.unlink(missing_ok=True)


def umask() -> int:
    """The permissions that new files of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises UserError if it is missing, cut short or something else."""
    with _readable(path):
        return load_file(path)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, {} if it has none. Raises UserError as read_weights does."""
    with _readable(path), safe_open(path, "pt") as file:
        return file.metadata() or {}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What can be wrong with a file, as one line."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a safetensors file is expected there") from None
    except (SafetensorError, IsADirectoryError) as err:
        raise UserError(f"{path}: not a whole safetensors file ({err}); make it again or restore a copy") from err


def load_weights(module: nn.Module, path: Path) -> None:
    """Load every weight of a module, strictly. Raises UserError naming the first keys that do not fit."""
    fit_weights(module, read_weights(path), str(path))


def fit_weights(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into a module of exactly their names and shapes, or raise UserError and change nothing."""
    own = module.state_dict()
    unknown, missing = sorted(tensors.keys() - own.keys()), sorted(own.keys() - tensors.keys())
    shapes = [k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape]
    for what, keys in (("has unknown weights", unknown), ("lacks weights", missing), ("has other shapes", shapes)):
        if keys:
            raise UserError(f"{where}: {what}: {', '.join(keys[:3])} ({len(keys)} in all); made for another network?")
    module.load_state_dict(dict(tensors))
