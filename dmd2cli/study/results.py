"""What a study found, in JSON values: of every question, and of the raters."""

from __future__ import annotations

from typing import Any

from dmd2cli.study.agreement import of_raters
from dmd2cli.study.counted import Counted, grouped
from dmd2cli.study.rates import LEVEL, by_item, duels, side
from dmd2cli.study.set import QUESTIONS
from dmd2cli.study.strength import strengths

FEW = 10
"""Votes from which on a rater who always answered the same is named."""


def summed(found: Counted) -> dict[str, Any]:
    """All of it. Strengths come with three arms or more."""
    study = found.study
    return {
        "study": study.id,
        "arms": [arm.name for arm in study.arms],
        "items": len(study.items),
        "raters": len(found.names),
        "votes": len(found.outcomes),
        "level": LEVEL,
        "ties": "half a win for both",
        "questions": {question: answers(found, question) for question in study.questions},
        "sides": side(found.outcomes),
        "by_rater": raters(found),
    }


def answers(found: Counted, question: str) -> dict[str, Any]:
    """Of one question."""
    outcomes = found.of(question)
    return {
        "asked": QUESTIONS[question],
        "votes": len(outcomes),
        "preferences": duels(found, question),
        "strengths": strengths(found, question) if len(found.study.arms) > 2 else [],
        "agreement": of_raters(outcomes),
        "by_item": by_item(found, question),
    }


def raters(found: Counted) -> list[dict[str, Any]]:
    """Every rater: name, votes, and the answer that they always gave, if it is one."""
    rows, given = [], grouped(found.outcomes, lambda one: one.vote.rater)
    for rater, name in found.names.items():
        pressed = [one.vote.side for one in given[rater]]
        always = pressed[0] if len(pressed) >= FEW and len(set(pressed)) == 1 else None
        rows.append({"name": name, "votes": len(pressed), "of": found.study.asked, "always": always})
    return rows
