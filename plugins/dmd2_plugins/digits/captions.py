"""Digits in words: captions that name one, and which digit a caption names."""

from __future__ import annotations

import re

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDINGS = ("a handwritten {}", "the digit {}", "a scan of a handwritten {}")


def caption(digit: int, wording: int = 0) -> str:
    """What a picture of a digit is called: "a handwritten three"."""
    return WORDINGS[wording].format(WORDS[digit])


def named(text: str) -> int | None:
    """The digit that a caption names, None if it names none or several."""
    found = [WORDS.index(word) for word in re.findall("[a-z]+", text.lower()) if word in WORDS]
    return found[0] if len(found) == 1 else None
