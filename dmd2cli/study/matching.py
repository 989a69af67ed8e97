"""Which file of an arm is of which item: by the numbers or the names of the files.

Files are numbered if they are called alike but for digits at the end: 000000.png, img7.jpg. With prompts, numbers run
from 0 or 1 without a gap, and image i is of prompt i mod P, as `dmd2 sample --prompts` draws; or a file is named after
its prompt. Without prompts the arms must have the same numbers (from 0 or from 1 is the same), or the same names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from dmd2cli.data.sources.source import Source
from dmd2cli.errors import UserError
from dmd2cli.study.names import clean, short

NUMBERED = re.compile(r"(.*?)(\d{1,18})", re.DOTALL)
FILES = ("folder", "zip")
"""Formats whose images have names of their own; rows of others have a place alone."""


@dataclass(frozen=True)
class Named:
    """The images of one arm: key -> place in the source. Keys are numbers, or names without their suffix."""

    arm: str
    places: Mapping[int | str, int]
    numbered: bool

    @property
    def keys(self) -> list[int | str]:
        """In order."""
        return sorted(self.places, key=lambda key: (0, key, "") if isinstance(key, int) else (1, 0, key))

    @property
    def gapless(self) -> bool:
        """Whether numbers run from 0."""
        return self.numbered and self.keys == list(range(len(self.places)))


def named(arm: str, source: Source) -> Named:
    """The keys of a source's images, numbers 1 to n as 0 to n - 1. Raises UserError if two files have one name."""
    if source.format not in FILES:
        return Named(arm, {i: i for i in range(len(source))}, True)
    stems = [str(PurePosixPath(source.name(i)).with_suffix("")) for i in range(len(source))]
    numbers = numbers_of(stems)
    if numbers is not None:
        first = 1 if sorted(numbers) == list(range(1, len(numbers) + 1)) else 0
        return Named(arm, {number - first: i for i, number in enumerate(numbers)}, True)
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise UserError(f"{source.where}: two images are called {shown(twice)}; leave one, or rename it")
    return Named(arm, {stem: i for i, stem in enumerate(stems)}, False)


def numbers_of(stems: Sequence[str]) -> list[int] | None:
    """The numbers at the end of file names that are alike but for these, in any folders; None if they are not."""
    found = [NUMBERED.fullmatch(PurePosixPath(stem).name) for stem in stems]
    kept = [match for match in found if match is not None]
    numbers = [int(match[2]) for match in kept]
    alike = len(kept) == len(stems) and len({match[1] for match in kept}) == 1 and len(set(numbers)) == len(numbers)
    return numbers if alike else None


def paired(arms: Sequence[Named]) -> list[list[int]]:
    """Places in every arm's source, item by item, without prompts. Raises UserError for one without a partner."""
    first = arms[0]
    for other in arms[1:]:
        if first.numbered != other.numbered:
            one, two = (first, other) if first.numbered else (other, first)
            raise UserError(f"'{one.arm}' has numbered images, '{two.arm}' others; give both the same file names")
        same_keys(first, other)
        same_keys(other, first)
    return [[arm.places[key] for key in first.keys] for arm in arms]


def same_keys(arm: Named, other: Named) -> None:
    """Raise UserError for an image of one arm that the other does not have."""
    if missing := [key for key in arm.keys if key not in other.places]:
        what = f"number {missing[0]}" if arm.numbered else f"called {shown(str(missing[0]))}"
        more = f" ({len(missing)} in all)" if len(missing) > 1 else ""
        raise UserError(f"'{other.arm}': no image {what}, which '{arm.arm}' has{more}; the arms need the same ones")


def of_prompts(arm: Named, texts: Sequence[str], rounds: int | None) -> list[int]:
    """Places in an arm's source, all prompts in turn, `rounds` times. None: as often as there are images.

    Raises UserError for images and prompts that do not match.
    """
    if not arm.numbered:
        return by_name(arm, texts, rounds)
    n, p = len(arm.places), len(texts)
    if n % p or rounds not in (None, n // p):
        wanted = f"{p} or a multiple" if rounds is None else f"{p * rounds}, one for each prompt and seed"
        raise UserError(f"'{arm.arm}': {n} images for {p} prompts; expected {wanted}")
    if not arm.gapless:
        gap = next(i for i in range(n) if i not in arm.places)
        raise UserError(f"'{arm.arm}': no image number {gap}; numbers have to run from 0 or 1 without a gap")
    return [arm.places[i] for i in range(n)]


def by_name(arm: Named, texts: Sequence[str], rounds: int | None) -> list[int]:
    """The same where files are named after prompts, one each."""
    if rounds not in (None, 1):
        raise UserError(f"'{arm.arm}': file names say no seed; number them 000000.png, ... for several --seeds")
    places, wanted = {slug(str(key)): place for key, place in arm.places.items()}, [slug(text) for text in texts]
    for text, key in zip(texts, wanted, strict=True):
        if key not in places:
            example = f"000000.png, ... or {short(key or '...', 40)}.png"
            raise UserError(f"'{arm.arm}': no image of '{shown(text)}'; name files by number or prompt: {example}")
        if wanted.count(key) > 1:
            raise UserError(f"'{arm.arm}': two prompts have the file name of '{shown(text)}'; number the files instead")
    if extra := [str(key) for key in arm.keys if slug(str(key)) not in wanted]:
        raise UserError(f"'{arm.arm}': {shown(extra[0])} is named after no prompt; take it out, or add the prompt")
    return [places[key] for key in wanted]


def slug(text: str) -> str:
    """A prompt or file name by its letters and digits alone, words joined by "-"."""
    return "-".join(re.findall(r"\w+", text.casefold().replace("_", " ")))


def shown(text: str) -> str:
    """A name in a message."""
    return short(clean(text), 60)
