"""Pictures: grids with captions, PNG files. Images are uint8 (b, 3, h, w) until here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from dmd2cli.protocols import Raw

CELL = 48
"""Smallest side of an image in a grid, in pixels: small ones are enlarged by whole factors."""
CAPTION = 16
NOTE = "dmd2"
"""Keyword of our text in a PNG."""
THREADS = min(8, os.cpu_count() or 1)
"""That compress single images."""


def to_pil(image: UInt8[Tensor, "3 h w"]) -> Image.Image:
    """One image."""
    return Image.fromarray(np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy()))


def grid(images: UInt8[Tensor, "b 3 h w"], columns: int, captions: Sequence[str] = ()) -> Image.Image:
    """Images row by row. captions: one per column, or one per image, or none."""
    factor = max(1, -(-CELL // images.shape[-1]))
    height, width = (side * factor for side in images.shape[-2:])
    rows, per_image = -(-len(images) // columns), len(captions) > columns
    pitch, top = height + 2 + CAPTION * per_image, CAPTION * (bool(captions) and not per_image)
    sheet = Image.new("RGB", (columns * (width + 2) + 2, rows * pitch + top + 2), "white")
    for i, image in enumerate(images):
        x, y = 2 + i % columns * (width + 2), 2 + top + i // columns * pitch + CAPTION * per_image
        sheet.paste(to_pil(image).resize((width, height), Image.Resampling.NEAREST), (x, y))
        if i < len(captions):
            text(sheet, captions[i], x + width // 2, y - CAPTION // 2 - 1)
    return sheet


def save_grid(
    images: UInt8[Tensor, "b 3 h w"], conditions: Sequence[Raw], period: int, path: Path, note: str | None = None
) -> None:
    """A grid as PNG, captioned with the conditions; one column for each, if they repeat with the period."""
    columns = min(period, 16, len(images))
    captions = [str(c) for c in conditions[: columns if columns == period else len(images)] if c is not None]
    save_png(grid(images, columns, captions), path, note)


def save_singles(
    images: UInt8[Tensor, "b 3 h w"], folder: Path, numbers: Sequence[int] = (), notes: Sequence[str] = ()
) -> None:
    """One PNG for each image, named by its number: 0, 1, ... or those given. notes: a text inside each file."""
    chosen: Sequence[int] = numbers or range(len(images))
    said: Sequence[str | None] = notes or [None] * len(images)

    def save(image: Tensor, number: int, note: str | None) -> None:
        save_png(to_pil(image), file_of(folder, number), note)

    with ThreadPoolExecutor(THREADS) as pool:                  # compression leaves Python to the others meanwhile
        list(pool.map(save, images, chosen, said))


def file_of(folder: Path, number: int) -> Path:
    """Where a numbered image is."""
    return folder / f"{number:06d}.png"


def text(sheet: Image.Image, words: str, x: int, y: int, limit: int = 24) -> None:
    """Small black words centred at (x, y)."""
    ImageDraw.Draw(sheet).text((x, y), words[:limit], fill="black", font=ImageFont.load_default(), anchor="mm")


def save_png(image: Image.Image, path: Path, note: str | None = None) -> None:
    """Write a PNG whole or not at all. note: ASCII text that goes into it, see read_note()."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft, said = path.with_name(f".{path.name}.tmp"), PngInfo()
    if note is not None:
        said.add_text(NOTE, note)
    try:
        image.save(draft, format="PNG", pnginfo=said)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def read_note(path: Path) -> str | None:
    """The text that save_png() put into a file; None if it has none, or is no image."""
    try:
        with Image.open(path) as image:
            return image.info.get(NOTE)
    except (OSError, SyntaxError):                             # what Pillow raises for a damaged file
        return None


def save_strips(strips: Mapping[str, Image.Image], path: Path) -> None:
    """Pictures below one another, each under its title, as one PNG."""
    width, height = max(s.width for s in strips.values()), sum(s.height + 24 for s in strips.values())
    sheet, y = Image.new("RGB", (width, height + 4), "white"), 0
    for title, strip in strips.items():
        text(sheet, title, width // 2, y + 14, limit=80)
        sheet.paste(strip, (0, y + 24))
        y += strip.height + 24
    save_png(sheet, path)
