"""Regression on noise-image pairs: [DMD] Eq. 9, [DMD2] Eq. 3; the warm-up of its one-step SDXL ([DMD2] App. F)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError
from dmd2cli.losses.perceptual import SMALLEST, enlarge, lpips_vgg
from dmd2cli.protocols import Nets, Pair, Sample, Teacher


@dataclass(frozen=True)
class Regression:
    """Generator term, E[l(G(z), y)] over pairs (z, y) that the teacher's ODE made.

    distance: lpips, between decoded images; l2 or huber, means over all elements of x in model units.
    decoder: lpips only; the teacher's way to pixels, "full" or "tiny".
    resize: lpips only; images below so many pixels are enlarged to it ([DMD] App. B), null = as they are.
    weights: lpips only; a file of torchvision's VGG-16, null = torch hub's cache.
    delta: huber only; where it turns from quadratic to linear, in model units.
    """

    distance: Literal["lpips", "l2", "huber"] = "lpips"
    decoder: str = "full"
    resize: int | None = 224
    weights: str | None = None
    delta: float = 1.0

    player: ClassVar = "generator"
    reads_real: ClassVar = False
    reads_pairs: ClassVar = True

    def __post_init__(self) -> None:
        if self.resize is not None and self.resize < SMALLEST:
            raise UserError(f"resize {self.resize}: LPIPS needs at least {SMALLEST} pixels; the papers have 224")
        if self.delta <= 0:
            raise UserError(f"delta {self.delta:g}: must be positive, in model units")

    def check(self, teacher: Teacher, nets: Nets) -> None:
        """Raise UserError where LPIPS has no decoder to pixels or no VGG-16 to read them."""
        if self.distance != "lpips":
            return
        if self.decoder not in teacher.decoders:
            known = ", ".join(sorted(teacher.decoders))
            way = f"it has {known}" if known else "it has none; take distance: l2"
            raise UserError(f"decoder '{self.decoder}': this teacher has no such way to pixels: {way}")
        lpips_vgg(self.weights, next(cast(nn.Module, nets.generator).parameters()).device)

    def __call__(self, s: Sample, nets: Nets, rng: Rng) -> Tensor:
        if s.pair is None:
            raise UserError("regression: there are no noise-image pairs: add data.pairs, or remove the term")
        if self.distance == "lpips":
            return self.perceptual(s.pair, nets)
        if self.distance == "l2":
            return F.mse_loss(s.pair.x, s.pair.target)
        return F.huber_loss(s.pair.x, s.pair.target, delta=self.delta)

    def perceptual(self, pair: Pair, nets: Nets) -> Tensor:
        """Mean LPIPS of the decoded pairs. Raises UserError for images that are too small for VGG."""
        decode = nets.decoders[self.decoder]
        images = enlarge(decode(pair.x).float(), self.resize)
        if min(images.shape[-2:]) < SMALLEST:
            size = " x ".join(str(side) for side in images.shape[-2:])
            raise UserError(f"regression: LPIPS needs images of at least {SMALLEST} pixels, not {size}: set resize")
        with torch.no_grad():
            target = enlarge(decode(pair.target).float(), self.resize)
        return lpips_vgg(self.weights, images.device)(images, target).mean()
