"""The papers' side-by-side figure: images of several subjects for the same prompts or classes and the same noise."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

CELL, LEAST, GAP = 256, 96, 6
"""Pixels: the longest side of a picture of large images, the shortest one of small images, and between pictures."""
SIZE, LINE, LABEL = 14, 18, 200
"""Pixels: of the letters, from line to line, and the widest label of a row."""


def sheet(columns: Mapping[str, Sequence[Image.Image]], labels: Sequence[str], across: bool = False) -> Image.Image:
    """A row for each label and a column for each subject; across: a row for each subject.

    Images of one subject may differ in size from another's: each is scaled into a cell of one size.
    """
    cells = [[columns[name][row] for name in columns] for row in range(len(labels))]
    tops, sides = list(columns), list(labels)
    if across:
        cells, tops, sides = [list(row) for row in zip(*cells, strict=True)], sides, tops
    side = max(LEAST, min(CELL, max(max(image.size) for row in cells for image in row)))
    heads, labelled = [lines(top, side) for top in tops], [lines(label, LABEL)[: side // LINE] for label in sides]
    left, above = margin(labelled), LINE * max(map(len, heads)) + GAP
    found = Image.new("RGB", (left + len(tops) * (side + GAP), above + len(sides) * (side + GAP)), "white")
    for i, head in enumerate(heads):
        write(found, head, left + i * (side + GAP), 0)
    for k, (label, row) in enumerate(zip(labelled, cells, strict=True)):
        y = above + k * (side + GAP)
        write(found, label, GAP, y)
        for i, image in enumerate(row):
            fitted = fit(image, side)
            place = (side - fitted.width) // 2, (side - fitted.height) // 2
            found.paste(fitted, (left + i * (side + GAP) + place[0], y + place[1]))
    return found


def fit(image: Image.Image, side: int) -> Image.Image:
    """Scaled so that its longer side fills a cell; small ones by whole factors, so that pixels stay pixels."""
    longest = max(image.size)
    if longest <= side:
        factor = max(1, side // longest)
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    ratio = side / longest
    size = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
    return image.resize(size, Image.Resampling.LANCZOS)


def margin(labels: Sequence[Sequence[str]]) -> int:
    """Pixels at the left that labels need."""
    return round(max(font().getlength(line) for label in labels for line in label)) + 2 * GAP


def lines(text: str, width: int) -> list[str]:
    """A label in lines of about that many pixels at most; at least one."""
    letters = len(text) * width / max(1.0, font().getlength(text))
    return textwrap.wrap(text, max(1, int(letters))) or [""]


def write(sheet: Image.Image, label: Sequence[str], x: int, y: int) -> None:
    """Lines from a corner on."""
    for i, line in enumerate(label):
        ImageDraw.Draw(sheet).text((x, y + i * LINE), line, fill="black", font=font())


def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own."""
    return ImageFont.load_default(SIZE)
