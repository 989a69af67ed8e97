"""From prompts to the conditions of a batch: null conditions, size conditions, and a memory of encoded prompts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dmd2_plugins.stable_diffusion.late import Late
from dmd2cli.core.denoiser import Cond
from dmd2cli.errors import UserError
from dmd2cli.protocols import Raw

MEMORY = 32
"""Prompts whose encoding is kept; one of SDXL takes 0.6 MB, one of SD3 5 MB."""


@dataclass(frozen=True)
class Prompts:
    """Teacher.encode of the families that read text. Conditions: text, and pooled, mask, time_ids where they are read.

    A raw None is the null condition itself.
    """

    text: Late
    """Of a text.Text."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of one row of what it gives."""
    null: str | None = ""
    """The prompt of the null condition; None for zeros."""
    size: tuple[int, int] | None = None
    """Height and width of the image, for networks that read it."""
    memory: OrderedDict[str, dict[str, Tensor]] = field(default_factory=OrderedDict, repr=False, compare=False)

    def __call__(self, raw: Sequence[Raw]) -> tuple[Cond, Cond]:
        for one in raw:
            if one is not None and not isinstance(one, str):
                raise UserError(f"condition {one!r}: this teacher reads prompts; give text instead of a class label")
        wanted = [self.null if one is None else str(one) for one in raw]
        return self.stack(wanted), self.stack([self.null] * len(raw))

    def stack(self, prompts: Sequence[str | None]) -> dict[str, Tensor]:
        """Conditions of some prompts, on the device of the encoders; of none, nothing is loaded."""
        known = self.rows([prompt for prompt in dict.fromkeys(prompts) if prompt is not None])
        rows = [self.zeros() if prompt is None else known[prompt] for prompt in prompts]
        blank = {name: value[None][:0] for name, value in self.zeros().items()}
        found = {name: torch.stack([row[name] for row in rows]) if rows else none for name, none in blank.items()}
        return found | self.sizes(len(prompts), found["text"].device)

    def rows(self, prompts: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        """Encoded prompts, those that are not remembered in one batch."""
        place = self.text.place.device
        if new := [prompt for prompt in prompts if prompt not in self.memory]:
            with torch.no_grad():
                found = self.text.get()(new)
            for i, prompt in enumerate(new):
                self.memory[prompt] = {name: value[i].clone() for name, value in found.items()}
        rows = {prompt: {k: v.to(place) for k, v in self.memory[prompt].items()} for prompt in prompts}
        for prompt in prompts:
            self.memory.move_to_end(prompt)
        if self.null is not None and self.null in self.memory:
            self.memory.move_to_end(self.null)
        while len(self.memory) > MEMORY:
            self.memory.popitem(last=False)
        return rows

    def zeros(self) -> dict[str, Tensor]:
        """A row of nothing."""
        place = self.text.place
        return {name: torch.zeros(shape, dtype=place.dtype, device=place.device) for name, shape in self.shapes.items()}

    def sizes(self, n: int, device: torch.device) -> dict[str, Tensor]:
        """SDXL's micro-conditions, the same for all: original size, no crop, target size (Podell et al. 2023)."""
        if self.size is None:
            return {}
        ids = torch.tensor([*self.size, 0, 0, *self.size], dtype=torch.float32, device=device)
        return {"time_ids": ids.repeat(n, 1)}

    def with_null(self, prompt: str) -> Prompts:
        """The same with another null condition: a negative prompt."""
        return replace(self, null=prompt)

    def at_size(self, height: int, width: int) -> Prompts:
        """The same for images of another size."""
        return replace(self, size=(height, width)) if self.size is not None else self


@dataclass(frozen=True)
class Blank:
    """Prompts without encoders, for plans: conditions of the right shapes, with nothing in them."""

    shapes: Mapping[str, tuple[int, ...]]
    size: tuple[int, int] | None = None

    def __call__(self, raw: Sequence[Raw]) -> tuple[Cond, Cond]:
        shapes = {**self.shapes, **({"time_ids": (6,)} if self.size else {})}
        return self.rows(len(raw), shapes), self.rows(len(raw), shapes)

    def rows(self, n: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """On the device of the skeleton."""
        return {name: torch.empty(n, *shape) for name, shape in shapes.items()}
