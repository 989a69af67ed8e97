"""Something that draws images, as commands see it: a Source of ours, or a pipeline of diffusers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from jaxtyping import UInt8
from torch import Tensor

from dmd2cli.protocols import Raw


class Reads(Protocol):
    """What conditions something reads. A Teacher is one."""

    @property
    def prompts(self) -> bool:
        """Whether they are free text."""

    @property
    def conditions(self) -> Sequence[Raw]:
        """All there are, if they can be listed."""


class Draws(Protocol):
    """Draws numbered images: image i is a function of (seed, i) and its condition, whatever the batch."""

    @property
    def reads(self) -> Reads:
        """Its conditions."""

    @property
    def size(self) -> tuple[int, ...]:
        """(height, width) in pixels; () of samples that are no images."""

    @property
    def batch(self) -> int:
        """Images drawn at once unless another number is asked."""

    @property
    def device(self) -> torch.device:
        """The network's."""

    @property
    def guidance(self) -> float | None:
        """The guidance scale; None: there is none."""

    @property
    def nfe(self) -> int | None:
        """Calls of the network for each image; None: not known before one is drawn."""

    @property
    def cost(self) -> Mapping[str, Any]:
        """What an image took to draw: "nfe", "guidance", and what else is known."""

    @property
    def how(self) -> Mapping[str, Any]:
        """What images are functions of besides weights, seed and condition. JSON values."""

    def identity(self) -> str:
        """Which weights it draws with, in 16 digits."""

    def conditions(self, n: int) -> list[Raw]:
        """n of its conditions, in turn; Nones where there are none."""

    def draw(
        self, raw: Sequence[Raw], seed: int | Sequence[int], first: int = 0, batch: int | None = None
    ) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
        """Images first, first + 1, ... for some conditions, in batches; or image `first` of each of several seeds."""
