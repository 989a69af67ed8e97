"""The network passes of some steps, recorded while the engine makes them, and made again without it.

A pass is one call of one network: its inputs, with or without gradient, its weights learning or not, and which of
its results a gradient came back to. Made again, each is a forward pass and, if one came back, a backward pass at once,
from gradients of ones. That is what the recipe cannot do without: no loss, no optimiser, no random number, no data.
What a term differentiates twice (`gan_critic.r1`) is made once; networks of terms (rewards, perceptual) are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from dmd2cli.engine.distill import DistillJob
from dmd2cli.engine.player import Player

METHODS = ("forward", "features", "taps", "joint")


@dataclass
class Pass:
    """One call of a network."""

    name: str
    module: nn.Module
    method: str
    inner: Callable[..., Any]
    """The method as it is when nobody records."""
    args: tuple
    learns: bool
    """Whether the weights took part in the backward pass."""
    with_graph: bool
    reached: set[int] = field(default_factory=set)
    """Which results a gradient came back to."""

    def again(self) -> None:
        """The same forward pass, and its backward pass."""
        weights = list(self.module.parameters())
        if weights and weights[0].requires_grad != self.learns:
            self.module.requires_grad_(self.learns)
        args = tree_map(lambda x: x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x, self.args)
        with torch.set_grad_enabled(self.with_graph):
            found = tree_leaves(self.inner(*args))
        roots = [found[i] for i in sorted(self.reached)]
        if roots:
            torch.autograd.backward(roots, [torch.ones_like(root) for root in roots])


class Recording:
    """What some steps of a job called."""

    def __init__(self, work: DistillJob) -> None:
        self.networks = dict(work.watched())
        self.events = list[Pass | None]()
        """None: an update, after which there are no gradients."""
        self.learning = {p: p.requires_grad for net in self.networks.values() for p in net.parameters()}

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Record what happens inside."""
        inner = {(name, method): getattr(net, method) for name, net in self.networks.items() for method in METHODS
                 if hasattr(net, method)}  # fmt: skip
        update = Player.update

        def updated(player: Player, *args: Any, **kwargs: Any) -> Any:
            result = update(player, *args, **kwargs)
            self.events.append(None)
            return result

        try:
            for (name, method), call in inner.items():
                self.networks[name].__dict__[method] = self.watched(name, method, call)
            with patch.object(Player, "update", updated):
                yield
        finally:
            for name, method in inner:
                del self.networks[name].__dict__[method]

    def watched(self, name: str, method: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        """The method, which notes how it was called."""

        def call(*args: Any) -> Any:
            module = self.networks[name]
            learns = any(p.requires_grad for p in module.parameters())
            held = tree_map(lambda x: x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x, args)
            made = Pass(name, module, method, inner, held, learns, torch.is_grad_enabled())
            self.events.append(made)
            result = inner(*args)
            for i, out in enumerate(tree_leaves(result)):
                if out.requires_grad:
                    out.register_hook(lambda _, i=i: made.reached.add(i))
            return result

        return call

    def again(self) -> None:
        """All of it once more, without the engine. Networks are left as they were."""
        for event in self.events:
            self.forget() if event is None else event.again()
        self.forget()
        for p, learns in self.learning.items():
            p.requires_grad_(learns)

    def forget(self) -> None:
        """No gradients."""
        for p in self.learning:
            p.grad = None

    def rows(self) -> Counter:
        """{"fake.joint": rows} by network and method."""
        found = Counter()
        for event in self.events:
            if event is not None:
                found[f"{event.name}.{event.method}"] += len(event.args[0])
        return found
