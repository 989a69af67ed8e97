"""Published EDM pickles as data: the recorded tree of modules, its tensors by name, and how the network was made.

Such a file is a dict with the network under "ema". Every object in it is recorded as a call of
torch_utils.persistence._reconstruct_persistent_obj with one dict: type, version, module_src (source code, which that
function would execute), class_name, and state (the object's __dict__). Here the call is never made and the source
code never looked at: a state has all that is needed.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmd2cli import torch_pickle
from dmd2cli.errors import UserError
from dmd2cli.unpickle import Reader, Recorded, printable

PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
CONTAINERS = {f"torch.nn.modules.container.{name}" for name in ("ModuleDict", "ModuleList", "Sequential")}
DICTS = {"dnnlib.EasyDict", "dnnlib.util.EasyDict"}
DEPTH = 16
"""Modules inside modules; published networks have 5 levels."""


@dataclass(frozen=True)
class Published:
    """The network of a file: its tensors are still recorded, not built."""

    class_name: str
    options: Mapping[str, Any]
    """What its constructor was given, by keyword."""
    tensors: Mapping[str, Recorded]
    """Parameters and persistent buffers by state-dict name."""
    others: Mapping[str, str]
    """What else the file holds, and why it is of no use."""


def read(path: Path) -> Published:
    """Raises UserError for a file that is damaged, wants to run something, or holds no such network."""
    names = {PERSISTENT, *CONTAINERS, *torch_pickle.NAMES}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        found = Reader(str(path), names, DICTS).read(mapped)  # type: ignore[arg-type]
    if not isinstance(found, dict) or "ema" not in found:
        raise UserError(f"{path}: no network under 'ema', and published EDM files have one; this is another file")
    class_name, state = _opened(found["ema"], path)
    others = {printable(str(key)): "not the network" for key in found if key != "ema"}
    return Published(class_name, _options(state, path), dict(_walk(found["ema"], "", path, set())), others)


def _opened(module: Any, path: Path) -> tuple[str, dict[str, Any]]:
    """Class name and __dict__ of a recorded module."""
    match module:
        case Recorded(name, (), dict(state)) if name in CONTAINERS:
            return name.rpartition(".")[2], state
        case Recorded(name, ({"type": "class", "class_name": str(class_name), "state": dict(state)},), None) if (
            name == PERSISTENT
        ):
            return class_name, state
    raise _strange(path, "a module that is none")


def _options(state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    if state.get("_init_args") not in ((), None) or not isinstance(state.get("_init_kwargs"), dict):
        raise _strange(path, "a network without the arguments that it was made with")
    try:
        return {printable(str(key)): torch_pickle.plain(value) for key, value in state["_init_kwargs"].items()}
    except torch_pickle.Misuse as err:
        raise _strange(path, f"a network made with {err}") from None


def _walk(module: Any, prefix: str, path: Path, seen: set[int]) -> Iterator[tuple[str, Recorded]]:
    """(name, recorded tensor) of a module and the modules in it, as state_dict() names them."""
    if id(module) in seen or prefix.count(".") > DEPTH:
        raise _strange(path, "a module that lies in several places, or too deep")
    seen.add(id(module))
    _, state = _opened(module, path)
    hidden = state.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers", "_modules"):
        if not isinstance(members := state.get(kind), dict):
            raise _strange(path, f"a module without {kind}")
        for name, value in members.items():
            full = f"{prefix}{printable(str(name))}"
            if value is None or (kind == "_buffers" and isinstance(hidden, set | frozenset) and name in hidden):
                continue
            if kind == "_modules":
                yield from _walk(value, f"{full}.", path, seen)
            elif torch_pickle.is_tensor(value):
                yield full, value
            else:
                raise _strange(path, f"{full}, which is no tensor")


def _strange(path: Path, what: str) -> UserError:
    return UserError(f"{path}: holds {what}; not a published EDM network, or damaged; get it from its publisher again")
