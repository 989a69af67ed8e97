"""What a piece of work allocates and computes, operation by operation: bytes alive, and floating point operations.

On real tensors of the CPU the largest number of bytes alive is what the allocator itself reports. On fake ones
(torch._subclasses.FakeTensorMode) nothing is computed and nothing is allocated, and the numbers are the same.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs with a `with` block; what was allocated before it counts as nothing.

    prime: a factor of the micro-batch that no other length has. A tensor whose bytes it divides is one that grows
    with the micro-batch, so that one run tells the two kinds apart.
    """

    def __init__(self, prime: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fixed: list[int] = []
        """Bytes alive after each operation, in tensors whose size does not depend on the micro-batch."""
        self.grown: list[int] = []
        """Those in tensors whose size does."""
        self.formed: list[int] = []
        """Of the fixed ones, bytes of gradients of the watched parameters."""
        self.flops = 0
        """A multiplication and an addition are two, as on data sheets; matrix products and convolutions alone."""
        self._prime, self._now, self._gradients = prime, [0, 0], 0
        self._kept: dict[int, weakref.ref[Any]] = {}
        self._hooks: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.namespace == "prim":                           # questions about tensors, not work
            return out
        self._allocated(out, (args, kwargs))
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        self.fixed.append(self._now[0])
        self.grown.append(self._now[1])
        self.formed.append(self._gradients)
        return out

    def watch(self, parameters: Sequence[Tensor]) -> None:
        """Count the gradients of some parameters as such, until close()."""
        for p in parameters:
            self._hooks.append(p.register_post_accumulate_grad_hook(self._collected))  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Stop watching."""
        for hook in self._hooks:
            hook.remove()

    def _collected(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._gradients += parameter.grad.nbytes

    def _allocated(self, out: Any, given: Any) -> None:
        """Count each storage in `out` that is neither on the tape nor that of an argument."""
        old: set[int] | None = None
        for tensor in tree_leaves(out):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self._kept:
                continue
            if old is None:
                old = {t.untyped_storage()._cdata for t in tree_leaves(given) if isinstance(t, Tensor)}
            if key not in old:
                size = storage.nbytes()
                kind = int(size % self._prime == 0)
                self._now[kind] += size
                self._kept[key] = weakref.ref(storage, partial(self._freed, key, kind, size))

    def _freed(self, key: int, kind: int, size: int, gone: Any) -> None:
        self._now[kind] -= size
        del self._kept[key]
