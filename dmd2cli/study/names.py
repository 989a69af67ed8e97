"""Text from strangers and from files, fit for one line on a page, a terminal or a table."""

from __future__ import annotations

import unicodedata

JOINER = "\u200d"
"""Holds emoji together; all other control and format characters go, those that turn the direction of writing too."""
FORMULA = ("=", "+", "-", "@")
"""What a spreadsheet takes for the beginning of a formula."""


def clean(text: str) -> str:
    """One line without control characters."""
    kept = (c if c == JOINER or unicodedata.category(c)[0] != "C" else " " for c in text)
    return " ".join("".join(kept).split())


def short(text: str, most: int) -> str:
    """At most so many characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def cell(text: str) -> str:
    """For a CSV file: an apostrophe before what a spreadsheet would compute."""
    text = clean(text)
    return f"'{text}" if text.startswith(FORMULA) else text
