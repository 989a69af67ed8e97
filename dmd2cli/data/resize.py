"""Images to squares of one size, as the protocols of ImageNet-64 do it.

lanczos with a centre crop is what EDM's set and the reference statistics of the papers here were made with: the
largest square in the middle, reduced by Pillow's Lanczos filter. adm is the preprocessing of Dhariwal & Nichol (2021).
"""

from __future__ import annotations

from PIL import Image

from dmd2cli.errors import UserError

FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
}
"""Pillow's filters by name; they widen with the factor of reduction, so none of them aliases."""
ADM = "adm"


def squared(image: Image.Image, size: int | None, name: str, how: str = "lanczos", crop: bool = True) -> Image.Image:
    """An RGB image as a square of a size. size: None keeps the size. crop: to the largest square in the middle.

    Raises UserError for an image that is no square and may not be cropped.
    """
    if not crop and image.width != image.height:
        size_now = f"{image.width} x {image.height}"
        raise UserError(f"{name}: {size_now} is no square; use --crop center")
    if how == ADM and size is not None:
        return adm(image, size)
    if crop:
        image = image.crop(middle(image.width, image.height, min(image.size)))
    return image if size in (None, image.width) else image.resize((size, size), FILTERS[how])


def middle(width: int, height: int, side: int) -> tuple[int, int, int, int]:
    """The square in the middle, (left, upper, right, lower); a pixel left over is on the right or below."""
    left, upper = (width - side) // 2, (height - side) // 2
    return left, upper, left + side, upper + side


def adm(image: Image.Image, size: int) -> Image.Image:
    """Halved by a box filter while the shorter side is at least twice the size, then bicubic, then cropped."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    return image.crop(middle(image.width, image.height, size))
