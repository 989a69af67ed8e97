"""Coloured shapes made up by number: image data for trials and tests without any files."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError
from dmd2cli.protocols import Example, Teacher

FORMS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda x, y: torch.hypot(x, y),                                     # disc
    lambda x, y: torch.maximum(x.abs(), y.abs()),                       # square
    lambda x, y: x.abs() + y.abs(),                                     # diamond
    lambda x, y: (torch.hypot(x, y) - 0.7).abs() * 2.5,                 # ring
    lambda x, y: torch.maximum(torch.minimum(x.abs(), y.abs()) * 3, torch.maximum(x.abs(), y.abs())),   # cross
)
"""Distance from the centre in units of the form's radius: inside below 1."""
NAMES = ("disc", "square", "diamond", "ring", "cross")
HUES = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink")


@dataclass(frozen=True)
class Shapes:
    """Image i: one shape on a grey ground, class i % classes; x (3, size, size) in [-1, 1] on 256 levels.

    The class says form and hue; place, radius, brightness and ground are drawn by (seed, i). size: null = that of the
    teacher's images. labels: the classes are the conditions. captions: words for them are, "a red disc".
    """

    size: int | None = 32
    classes: int = 10
    count: int = 1000
    seed: int = 0
    labels: bool = True
    captions: bool = False

    def __post_init__(self) -> None:
        for option, least in (("size", 4), ("classes", 1), ("count", 1), ("seed", 0)):
            value = getattr(self, option)
            if value is not None and value < least:
                raise UserError(f"shapes: {option} must be at least {least}, got {value}")

    def for_teacher(self, teacher: Teacher) -> Shapes:
        """The same in the size of a teacher's images. Raises UserError if these are not square."""
        if self.size is not None:
            return self
        place = next((p.device for p in teacher.denoiser.parameters()), torch.device("cpu"))
        height, width = teacher.decode(torch.zeros(1, *teacher.shape, device=place)).shape[-2:]
        if height != width:
            raise UserError(f"size: the teacher's images are {height} x {width}, and shapes are square; set size")
        return replace(self, size=height)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < self.count:
            raise IndexError(f"shape {i} of {self.count}")
        kind = i % self.classes
        return Example(self._drawn(i, kind), self.caption(kind) if self.captions else kind if self.labels else None)

    def caption(self, kind: int) -> str:
        """A class in words."""
        hue = HUES[kind * len(HUES) // self.classes % len(HUES)]
        return f"{'an' if hue == 'orange' else 'a'} {hue} {NAMES[kind % len(NAMES)]}"

    def _drawn(self, i: int, kind: int) -> Float[Tensor, "3 h w"]:
        """The shape, its edge one pixel wide, rounded to the levels of an image file."""
        if self.size is None:
            raise UserError("size: is that of a teacher's images, and there is no teacher here; set it")
        right, down, wide, bright, ground = Rng(self.seed, i).uniform("shape", torch.empty(5, 1)).tolist()
        radius = self.size * (0.2 + 0.15 * wide)
        middle = [radius + (self.size - 2 * radius) * part - 0.5 for part in (right, down)]
        steps = torch.arange(self.size, dtype=torch.float64)
        x, y = (steps[None] - middle[0]) / radius, (steps[:, None] - middle[1]) / radius
        inside = ((1 - FORMS[kind % len(FORMS)](x, y)) * radius + 0.5).clamp(0, 1)
        colour = torch.tensor(colorsys.hsv_to_rgb(kind / self.classes, 0.8, 0.7 + 0.3 * bright), dtype=torch.float64)
        pixels = 255 * (inside * colour[:, None, None] + (1 - inside) * (0.1 + 0.2 * ground))
        return pixels.round().float() / 127.5 - 1
