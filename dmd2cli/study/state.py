"""What the page is told: how far a rater is, which pair to show, and what can be taken back."""

from __future__ import annotations

from typing import Any

from dmd2cli.study.set import Study
from dmd2cli.study.turns import Answers, sides, waiting


def state(study: Study, rater: str, name: str, given: Answers) -> dict[str, Any]:
    """Of one rater, in JSON values. given: their answers, the latest last. pair is None at the end."""
    shown = waiting(study, rater, given)
    last = list(given)[-1] if given else None
    return {
        "name": name,
        "total": study.pairs,
        "done": study.pairs - unfinished(study, given),
        "pair": pair(study, rater, shown[0], given) if shown else None,
        "next": [image for number in shown[1:] for image in images(study, rater, number)],
        "undo": None if last is None else {"pair": last[0], "question": last[1]},
    }


def unfinished(study: Study, given: Answers) -> int:
    """Pairs with a question that is open."""
    answered: dict[int, int] = {}
    for number, _ in given:
        answered[number] = answered.get(number, 0) + 1
    return study.pairs - sum(n == len(study.questions) for n in answered.values())


def pair(study: Study, rater: str, number: int, given: Answers) -> dict[str, Any]:
    """What is shown of a pair. Nothing in it says which arm is where."""
    left, right = images(study, rater, number)
    answers = {question: given[number, question] for question in study.questions if (number, question) in given}
    text = study.items[study.pair(number).item].text
    return {"number": number, "text": text, "left": left, "right": right, "answers": answers}


def images(study: Study, rater: str, number: int) -> list[str]:
    """Addresses of the left and the right image of a pair."""
    found = study.pair(number)
    return [f"image/{study.arms[arm].images[found.item]}" for arm in sides(study, rater, found)]
