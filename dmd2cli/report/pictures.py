"""The pictures of a run, small enough for one file: PNG for small sheets, else JPEG, else smaller."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

MOST = 24
"""Pictures of one run: the first, the last, and some between, evenly."""
SIDE = 1280
"""Longest side, in pixels; what is larger is made smaller."""
PIXELS = 2**26
"""Of a file that is opened at all."""
TOTAL = 5 * 2**20
"""Bytes of all pictures of a report, as text."""
LEAST = 96
"""Longest side, in pixels, of what is still worth showing."""
SMALL = 2**18
"""Pixels of what is kept exact: in sheets of small images JPEG would show."""
QUALITIES = (88, 65)


@dataclass(frozen=True)
class Picture:
    """One sheet of samples. address: a data: URI; "" for a file that cannot be shown, and then `problem` says why."""

    name: str
    step: int
    address: str
    width: int
    height: int
    problem: str = ""


def files(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of the previews of a run, at most MOST, by rising step."""
    there = (folder / "samples").glob("step-*.png")
    found = sorted((int(path.stem[5:]), path) for path in there if re.fullmatch(r"step-[0-9]{1,12}", path.stem))
    if len(found) <= MOST:
        return found
    return [found[round(i * (len(found) - 1) / (MOST - 1))] for i in range(MOST)]


def shown(found: Sequence[tuple[int, Path]], budget: int) -> list[Picture]:
    """Pictures of files. budget: bytes of text for each."""
    return [picture(path, step, budget) for step, path in found]


def picture(path: Path, step: int, budget: int) -> Picture:
    """One file. What cannot be read is said in its place: the other pictures are worth having."""
    try:
        with opened(path) as image:
            if image.width * image.height > PIXELS:
                return Picture(path.name, step, "", 0, 0, f"too large to show ({image.width} x {image.height})")
            return encoded(path.name, step, image.convert("RGB"), budget)
    except Image.DecompressionBombError:
        return Picture(path.name, step, "", 0, 0, "too large to show")
    except (OSError, ValueError, SyntaxError) as err:
        return Picture(path.name, step, "", 0, 0, f"cannot be read ({type(err).__name__})")


def opened(path: Path) -> Image.Image:
    """A file, its pixels unread; PIL's own warning of large ones is not needed here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path)


def encoded(name: str, step: int, image: Image.Image, budget: int) -> Picture:
    """An RGB image within a budget of bytes of text, unless that takes it below LEAST."""
    if image.width * image.height <= SMALL and len(text := written(image, "png")) <= budget:
        return Picture(name, step, text, *image.size)
    side = min(max(image.size), SIDE)
    while True:
        small = resized(image, side)
        for quality in QUALITIES:
            if len(text := written(small, "jpeg", quality)) <= budget or side <= LEAST:
                return Picture(name, step, text, *small.size)
        side = max(LEAST, round(side * max(0.3, min(0.9, (budget / len(text)) ** 0.5))))


def written(image: Image.Image, kind: str, quality: int = 0) -> str:
    """As a data: URI."""
    held = io.BytesIO()
    image.save(held, kind, quality=quality, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(held.getvalue()).decode()}"


def resized(image: Image.Image, side: int) -> Image.Image:
    """With its longest side of at most so many pixels."""
    if max(image.size) <= side:
        return image
    factor = side / max(image.size)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS)
