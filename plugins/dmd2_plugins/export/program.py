"""torch.export archives: graphs of a free batch, written with their contract and an example."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import ExportedProgram


def program(module: nn.Module, example: Mapping[str, Tensor], batch: Any) -> ExportedProgram:
    """The graph of a module. batch: the first dimension of every input, a torch.export.Dim."""
    dims = [{0: batch} for _ in example]
    given = inspect.signature(module.forward).parameters.values()
    n = sum(p.kind is not inspect.Parameter.VAR_POSITIONAL for p in given)
    more = [tuple(dims[n:])] if n < len(dims) else []
    with torch.no_grad():
        return torch.export.export(module, tuple(example.values()), dynamic_shapes=(*dims[:n], *more))


def largest_batch(program: ExportedProgram) -> int | None:
    """Where the graph stops to hold; None if nowhere."""
    ends = [str(found.upper) for found in program.range_constraints.values()]                # a number, or int_oo
    return min((int(end) for end in ends if end.isdigit()), default=None)


def shapes(example: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Of the inputs, for the contract."""
    return {name: ["batch", *value.shape[1:]] for name, value in example.items()}


@contextmanager
def archive(program: ExportedProgram, contract: Mapping[str, Any], out: Path) -> Iterator[Path]:
    """The archive under another name, which becomes out if nothing is wrong with it."""
    draft = out.with_name(f".{out.name}.tmp.pt2")
    try:
        torch.export.save(program, draft, extra_files={"dmd2.json": json.dumps(contract)})
        yield draft
        os.replace(draft, out)
    finally:
        draft.unlink(missing_ok=True)


def save_example(out: Path, tensors: Mapping[str, Tensor]) -> str:
    """Inputs with what they must give, beside the archive. Returns its path."""
    beside = out.with_name(f"{out.stem}.example.safetensors")
    save_file({name: value.contiguous() for name, value in tensors.items()}, beside)
    return str(beside)
