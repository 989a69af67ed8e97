"""A study on disk: which images are compared, for which prompts, and what is asked about them.

    STUDY/study.json           what Study holds, and the hash of every image
    STUDY/images/0/000000.png  arm 0's image of item 0; raters see hashes, which say nothing of the arm
    STUDY/votes.sqlite         see votes; comes with the first `dmd2 study serve`
    STUDY/token                see serving; likewise
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from dmd2cli.errors import UserError

FORMAT = 1
STUDY, IMAGES = "study.json", "images"
QUESTIONS = {
    "quality": "Which image looks better?",
    "alignment": "Which image fits the text better?",
}
"""What may be asked of a pair (DMD2, Sec. 5.4: visual quality, prompt alignment), and the words a rater reads."""
SIDES = ("left", "none", "right")
"""Answers to a question; none: no difference."""
MOST_TEXT = 2000
"""Characters of a prompt that fit on the page."""


@dataclass(frozen=True)
class Item:
    """What all arms have an image of."""

    text: str | None = None
    """A prompt or the name of a class."""
    seed: int | None = None
    """Of the arms that were drawn."""


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: a name, where its images are from, and the SHA-256 of each, item by item."""

    name: str
    about: Mapping[str, Any]
    images: Sequence[str]


@dataclass(frozen=True)
class Pair:
    """Two arms (first < second) and the item that both show."""

    number: int
    item: int
    first: int
    second: int


@dataclass(frozen=True)
class Study:
    """The whole of study.json."""

    format: int
    id: str
    arms: Sequence[Arm]
    items: Sequence[Item]
    questions: Sequence[str]
    """Of QUESTIONS."""
    protocol: Mapping[str, Any]
    dmd2cli: str
    """The version that made it."""

    @cached_property
    def duels(self) -> list[tuple[int, int]]:
        """Every two arms."""
        return list(combinations(range(len(self.arms)), 2))

    @property
    def pairs(self) -> int:
        """How many there are: every two arms on every item."""
        return len(self.items) * len(self.duels)

    @property
    def asked(self) -> int:
        """Votes of a rater who answers everything."""
        return self.pairs * len(self.questions)

    def pair(self, number: int) -> Pair:
        """By number, 0 to pairs - 1."""
        item, duel = divmod(number, len(self.duels))
        return Pair(number, item, *self.duels[duel])

    def name(self, arm: int) -> str:
        """Of an arm."""
        return self.arms[arm].name


def image_file(folder: Path, arm: int, item: int) -> Path:
    """Where an image is. Names come from numbers alone, never from study.json or a request."""
    return folder / IMAGES / str(arm) / f"{item:06d}.png"


def load(folder: Path) -> Study:
    """The study of a folder. Raises UserError if there is none, it is damaged, or an image is missing."""
    from pydantic import TypeAdapter, ValidationError

    path = folder / STUDY
    if not path.is_file():
        what = "is no study" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {what} (there is no {STUDY}); make one with dmd2 study new -o {folder}")
    try:
        study = TypeAdapter(Study).validate_json(path.read_bytes())
        check(study)
    except (ValidationError, ValueError) as err:
        why = err.errors()[0]["msg"] if isinstance(err, ValidationError) else err
        raise UserError(f"{path}: damaged, or of another dmd2 ({why}); make the study again") from None
    for arm, held in enumerate(study.arms):
        for item in range(len(study.items)):
            if not image_file(folder, arm, item).is_file():
                raise UserError(f"{image_file(folder, arm, item)}: an image of '{held.name}' is gone; put it back")
    return study


def check(study: Study) -> None:
    """Raise ValueError unless the parts fit together."""
    names = [arm.name for arm in study.arms]
    if study.format != FORMAT:
        raise ValueError(f"format {study.format}, not {FORMAT}")
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError("two or more arms of different names are needed")
    if not study.items or any(len(arm.images) != len(study.items) for arm in study.arms):
        raise ValueError("every arm needs one image of each item")
    if not study.questions or set(study.questions) - set(QUESTIONS):
        raise ValueError(f"questions are {', '.join(QUESTIONS)}")
