"""Views: what a protocol does to every image before a network looks at it, such as a crop and a resize to uint8."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from dmd2cli.images import to_pil

THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class View:
    """A function of one RGB image. Two views of one name do the same."""

    name: str
    """Part of the names of cached statistics: another one for another version."""
    words: str
    """What it does, for a protocol."""
    of: Callable[[Image.Image], Image.Image] = field(compare=False)
    least: int | None = None
    """Images with a side below this are left as they are; None: all become one size."""

    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 v w2"]:
        """Images of one size, each on its own, on the CPU."""
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(lambda image: np.asarray(self.of(to_pil(image))), images))
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()

    def leaves(self, images: UInt8[Tensor, "b 3 h w"]) -> bool:
        """Whether images of this size are too small for it."""
        return self.least is not None and min(images.shape[2:]) < self.least


def square(side: int) -> View:
    """The square in the middle, as wide as the shorter side, by Pillow's Lanczos filter to side x side."""

    def of(image: Image.Image) -> Image.Image:
        return middle(image, min(image.size)).resize((side, side), Image.Resampling.LANCZOS)

    words = f"centre crop to the shorter side, Pillow's Lanczos to {side} x {side}, uint8"
    return View(f"square-{side}-1", words, of)


def patch(side: int) -> View:
    """The side x side pixels in the middle, at native resolution; a smaller image is left as it is."""

    def of(image: Image.Image) -> Image.Image:
        return middle(image, side) if min(image.size) >= side else image

    words = f"one centre crop of {side} x {side} at native size; images with a smaller side are taken whole"
    return View(f"patch-{side}-1", words, of, least=side)


def stretched(side: int) -> View:
    """The whole image by Pillow's Lanczos filter to side x side, whatever its aspect."""
    words = f"Pillow's Lanczos to {side} x {side}, uint8"
    return View(f"stretched-{side}-1", words, lambda image: image.resize((side, side), Image.Resampling.LANCZOS))


def middle(image: Image.Image, side: int) -> Image.Image:
    """The square in the middle; an odd pixel left over is shared out as torchvision's center_crop does."""
    left, upper = (round((length - side) / 2) for length in image.size)
    return image.crop((left, upper, left + side, upper + side))
