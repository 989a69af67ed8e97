"""Losses and the network behind their samples, differentiated one after the other.

    g = d loss / d x,  with the networks that judge as they were when they judged;  then x.backward(g)

The result is that of one backward pass. It matters where generator and critic are adapters of one base
(dmd2cli/adapters.py): checkpointing computes activations again with whichever adapter is active then. And the graph of
the losses is gone before that of the generator is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from dmd2cli.adapters import View
from dmd2cli.core.denoiser import Denoiser
from dmd2cli.protocols import Nets, Sample


@dataclass
class Cut:
    """Cuts samples from the network that made them, and differentiates in two stages."""

    nets: Callable[[int], Nets]
    """The networks of a call."""
    call: int = 0
    roots: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """(what the generator made, the leaf that the losses see in its place)"""

    def __call__(self, s: Sample) -> Sample:
        """The same samples as leaves."""
        self.call, self.roots = s.call, []
        pair = replace(s.pair, x=self._leaf(s.pair.x)) if s.pair is not None else None
        return replace(s, x=self._leaf(s.x), pair=pair)

    def _leaf(self, x: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_()
        self.roots.append((x, leaf))
        return leaf

    def backward(self, objective: Tensor) -> None:
        """Gradients of the objective for the generator."""
        nets = self.nets(self.call)
        through(nets.real if nets.reads == "teacher" else nets.fake)(objective)
        reached = [(x, leaf.grad) for x, leaf in self.roots if leaf.grad is not None]
        if reached:
            activate(nets.generator)
            torch.autograd.backward(*zip(*reached, strict=True))  # type: ignore[arg-type]


def through(network: Denoiser) -> Callable[[Tensor], None]:
    """Tensor.backward with the network's adapter active, if it is one."""
    return partial(_backward, network)


def _backward(network: Denoiser, objective: Tensor) -> None:
    activate(network)
    objective.backward()  # type: ignore[no-untyped-call]


def activate(network: Denoiser) -> None:
    """Make the adapter of a network the active one of its base, if it is one."""
    if isinstance(network, View):
        network.use()
