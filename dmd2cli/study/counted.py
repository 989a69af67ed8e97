"""Votes as outcomes: which arm won, on which item, who said so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dmd2cli.errors import UserError
from dmd2cli.study.names import clean
from dmd2cli.study.set import SIDES, Study, load
from dmd2cli.study.turns import sides
from dmd2cli.study.votes import Vote, read_votes

T = TypeVar("T")
Points = NDArray[np.float64]
"""(arms, arms): in row i, column j what i won against j; no difference is half a point for both."""


@dataclass(frozen=True)
class Outcome:
    """One vote. left, right: the arms as they stood; winner: one of them, None for no difference."""

    vote: Vote
    item: int
    left: int
    right: int

    @property
    def winner(self) -> int | None:
        """The arm that was preferred."""
        return {"left": self.left, "right": self.right}.get(self.vote.side)


@dataclass(frozen=True)
class Counted:
    """A study and what came of it. names: of raters who voted, by id."""

    study: Study
    outcomes: Sequence[Outcome]
    names: dict[str, str]

    def of(self, question: str) -> list[Outcome]:
        """The answers to one question."""
        return [one for one in self.outcomes if one.vote.question == question]


def counted(folder: Path) -> Counted:
    """The votes of a study. Raises UserError if there are none, or its files are damaged."""
    study = load(folder)
    votes, names = read_votes(folder, study.id)
    if not votes:
        raise UserError(f"{folder}: nobody has voted yet; collect votes with dmd2 study serve {folder}")
    for vote in votes:
        if not 0 <= vote.pair < study.pairs or vote.question not in study.questions or vote.side not in SIDES:
            raise UserError(f"{folder}: a vote on pair {vote.pair}, {clean(vote.question)}, which the study lacks")
    who = dict.fromkeys(vote.rater for vote in votes)
    return Counted(study, [outcome(study, vote) for vote in votes], {rater: label(rater, names) for rater in who})


def outcome(study: Study, vote: Vote) -> Outcome:
    """A vote with the arms it was between."""
    pair = study.pair(vote.pair)
    return Outcome(vote, pair.item, *sides(study, vote.rater, pair))


def label(rater: str, names: dict[str, str]) -> str:
    """What results call a rater: the name, and enough of the id to tell two of one name apart."""
    return f"{names.get(rater) or 'anonymous'} ({rater[:4]})"


def grouped(outcomes: Iterable[Outcome], key: Callable[[Outcome], T]) -> dict[T, list[Outcome]]:
    """Outcomes by what they share."""
    found: dict[T, list[Outcome]] = {}
    for one in outcomes:
        found.setdefault(key(one), []).append(one)
    return found


def points(outcomes: Sequence[Outcome], arms: int) -> Points:
    """The points of some outcomes."""
    found = np.zeros((arms, arms))
    for one in outcomes:
        i, j = one.left, one.right
        found[i, j] += 0.5 if one.winner is None else one.winner == i
        found[j, i] += 0.5 if one.winner is None else one.winner == j
    return found
