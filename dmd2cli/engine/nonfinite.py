"""The first tensor of a step that is not finite, in order of computation: what hooks on the networks see."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from dmd2cli.adapters import WRAPPED, Adapters, View
from dmd2cli.core.random import Rng
from dmd2cli.engine.sharding import local

WORDS = {
    "data": "the data {}",
    "weight": "the weight {}",
    "input": "the input of {}",
    "output": "the output of {}",
    "output gradient": "the gradient at the output of {}",
    "weight gradient": "the gradient of the weight {}",
    "term": "the loss term {}",
    "logged": "the logged value {}",
}
"""Kind of a tensor -> how it is called in a sentence."""

Name = Callable[[], str]
"""The path of a module, known when it computes: the base of several adapters serves several networks."""


@dataclass(frozen=True)
class Found:
    """A tensor that is not finite: one of WORDS, where, and how many of its values are what."""

    kind: str
    where: str
    nan: int
    inf: int
    of: int
    rows: tuple[int, ...] = ()
    """Positions in the global batch (pairs: in the update's pairs) that have such a value; () where there are none."""
    order: int = 0
    """How many tensors of the step were looked at before."""

    def __str__(self) -> str:
        some = [(n, name) for n, name in ((self.nan, "NaN"), (self.inf, "infinite")) if n]
        counts = [f"{some[0][0]} of {self.of} values {some[0][1]}", *(f"{n} {name}" for n, name in some[1:])]
        values = ", ".join(counts) if self.of > 1 else some[0][1]
        rows = f", row{'s' if len(self.rows) > 1 else ''} {ranges(self.rows)}" if self.rows else ""
        return f"{WORDS[self.kind].format(self.where)} was the first that is not finite ({values}{rows})"


def ranges(rows: tuple[int, ...], most: int = 8) -> str:
    """Rising numbers in short: 0, 4-6; after `most` ranges an ellipsis."""
    starts = [n for n in rows if n - 1 not in rows]
    ends = [n for n in rows if n + 1 not in rows]
    found = [f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    return ", ".join([*found[:most], *(["..."] if len(found) > most else [])])


def bad(x: Tensor) -> bool:
    """Whether some value is NaN or infinite."""
    return not bool(local(x.detach()).isfinite().all())


def found(kind: str, where: str, x: Tensor, rows: slice | None, order: int = 0) -> Found:
    """A tensor that is bad(). rows: which ones of the global batch its first dimension is, if it is those."""
    x = local(x.detach())
    nan, inf = int(x.isnan().sum()), int(x.isinf().sum())
    return Found(kind, where, nan, inf, x.numel(), bad_rows(x, rows) if rows is not None else (), order)


def bad_rows(x: Tensor, rows: slice) -> tuple[int, ...]:
    """Positions in the global batch; () unless the first dimension of x is these rows, or twice these rows."""
    n = rows.stop - rows.start
    if x.ndim == 0 or len(x) not in (n, 2 * n):                  # twice: with and without condition, or fake and real
        return ()
    hit = ~x.isfinite().reshape(len(x), -1).all(1)
    return tuple(sorted({rows.start + i % n for i in hit.nonzero().flatten().tolist()}))


def floats(values: Any) -> list[Tensor]:
    """The tensors in nested containers that can be other than finite."""
    return [x for x in tree_leaves(values) if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())]


class Trace:
    """Looks at all that the networks of a step put out, forwards and backwards, up to the first bad tensor."""

    def __init__(self, rows: slice | None = None) -> None:
        """rows: of the micro-batch, if there is only one."""
        self.rows, self.order = rows, 0
        self.found: Found | None = None
        self._handles = list[RemovableHandle]()

    @contextmanager
    def on(self, networks: Mapping[str, nn.Module]) -> Iterator[None]:
        """Look inside the block. No hook is left behind, whatever happens there."""
        try:
            for name, module in places(networks):
                self._handles.append(module.register_forward_hook(partial(self._passed, name), with_kwargs=True))
                for key, p in module.named_parameters(recurse=False):
                    if p.requires_grad:
                        self._back(p, partial(self._learns, name, key))
            yield
        finally:
            for handle in self._handles:
                handle.remove()
            self._handles.clear()

    def _passed(self, name: Name, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """A module has computed, an inner one before those around it."""
        if self.found is not None:
            return
        self.rows = rows_in_hand() or self.rows
        for x in floats(output):
            if self._first(x):
                given = next((g for g in floats((args, kwargs)) if bad(g)), None)
                kind, x = ("output", x) if given is None else ("input", given)
                self.found = found(kind, name(), x, self.rows, self.order)
                return
            if x.requires_grad:
                self._back(x, partial(self._came_back, name()))

    def _back(self, x: Tensor, look: Callable[[Tensor], None]) -> None:
        """Look at the gradient of a tensor when it comes."""
        self._handles.append(x.register_hook(look))  # type: ignore[no-untyped-call]

    def _came_back(self, where: str, grad: Tensor) -> None:
        """The gradient at the output of a module."""
        if self._first(grad):
            self.found = found("output gradient", where, grad, self.rows, self.order)

    def _learns(self, name: Name, key: str, grad: Tensor) -> None:
        """The gradient of a weight."""
        if self._first(grad):
            self.found = found("weight gradient", f"{name()}.{key}", grad, None, self.order)

    def _first(self, x: Tensor) -> bool:
        """Whether this is the tensor that is looked for."""
        if self.found is not None:
            return False
        self.order += 1
        return bad(x)


def places(networks: Mapping[str, nn.Module]) -> Iterator[tuple[Name, nn.Module]]:
    """(name, module) of every module in some networks, each once; behind adapters, those of the base too."""
    seen = set[nn.Module]()
    for key, network in networks.items():
        yield from unseen(network, partial(str, key), seen)
        for view in [part for part in network.modules() if isinstance(part, View)]:
            yield from unseen(view.adapters.base, partial(user, view.adapters, networks), seen)


def unseen(root: nn.Module, whose: Name, seen: set[nn.Module]) -> Iterator[tuple[Name, nn.Module]]:
    """(name, module) of those in root that were not met before, without what activation checkpointing adds."""
    for path, module in root.named_modules():
        if module not in seen:
            seen.add(module)
            yield partial(joined, whose, f".{path}".replace(f".{WRAPPED}", "").rstrip(".")), module


def joined(whose: Name, path: str) -> str:
    """The name of a network and a path in it."""
    return f"{whose()}{path}"


def user(adapters: Adapters, networks: Mapping[str, nn.Module]) -> str:
    """The network whose adapter is the active one of a base."""
    for key, network in networks.items():
        if any(isinstance(part, View) and part.adapters is adapters and part.name == adapters.now
               for part in network.modules()):  # fmt: skip
            return key
    return "base"


def rows_in_hand() -> slice | None:
    """The rows of the micro-batch that is computed: hooks are not told, but whoever draws for it has its streams."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        for value in frame.f_locals.values():
            if isinstance(value, Rng) and value.rows is not None:
                return value.rows
        frame = frame.f_back
    return None
