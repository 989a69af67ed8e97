"""The results of a study as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dmd2cli.cli.table import table
from dmd2cli.study.names import clean, short

MOST = 40
"""Items in the table; --json has all."""


def report(found: Mapping[str, Any]) -> str:
    """All of it, a block of lines for each question."""
    blocks = [preferences(found)]
    for question, answers in found["questions"].items():
        if answers["strengths"]:
            blocks.append(strengths(question, answers["strengths"]))
    blocks += [items(question, answers["by_item"], found["arms"]) for question, answers in found["questions"].items()]
    return "\n\n".join([*(block for block in blocks if block), raters(found)])


def preferences(found: Mapping[str, Any]) -> str:
    """A line for every two arms and question."""
    rows = [
        (question, f"{short(row['arm'], 30)} over {short(row['against'], 30)}", percent(row["rate"]),
         interval(row["interval"]), *(str(row[key]) for key in ("wins", "ties", "losses", "votes")))
        for question, answers in found["questions"].items()
        for row in answers["preferences"]
    ]  # fmt: skip
    note = "no difference counts half for both; intervals are Wilson's, for independent votes"
    return table(("QUESTION", "PREFERRED", "RATE", "95 %", "WON", "TIED", "LOST", "VOTES"), rows) + f"\n{note}"


def strengths(question: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The arms on one scale."""
    header = (question.upper(), "STRENGTH", "95 %")
    cells = [
        (short(row["arm"], 40), f"{row['strength']:+.2f}", "{:+.2f} to {:+.2f}".format(*row["interval"]))
        for row in rows
    ]
    return table(header, cells) + "\nBradley-Terry, natural logarithm, mean 0; bootstrap over items; one tie added"


def items(question: str, rows: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> str:
    """A line for every item: how often each arm is preferred there."""
    if not rows:
        return ""
    header = (question.upper(), "VOTES", *(short(name, 20) for name in arms))
    shown = [
        (label(row), str(row["votes"]), *(percent(row["rates"][n]) if n in row["rates"] else "" for n in arms))
        for row in rows[:MOST]
    ]
    more = f"\nand {len(rows) - MOST} more in --json" if len(rows) > MOST else ""
    return table(header, shown) + more


def label(row: Mapping[str, Any]) -> str:
    """An item by number, text and seed."""
    seed = "" if row["seed"] is None else f" (seed {row['seed']})"
    return f"{row['item']} {short(clean(row['text'] or ''), 48)}".rstrip() + seed


def raters(found: Mapping[str, Any]) -> str:
    """Who voted, whether they agree, and whether the side mattered."""
    side, always = found["sides"], [row for row in found["by_rater"] if row["always"]]
    agreed = {question: answers["agreement"] for question, answers in found["questions"].items()}
    said = ", ".join(f"{q} {'no pair has two raters' if a is None else f'{a:.2f}'}" for q, a in agreed.items())
    left = "none" if side["rate"] is None else f"{percent(side['rate'])} ({interval(side['interval'])})"
    lines = [
        f"raters: {found['raters']}, votes: {found['votes']}",
        f"agreement (Krippendorff's alpha; 1 all agree, 0 chance): {said}",
        f"left image preferred: {left} of the votes for a side; 50 % if sides do not matter",
        *(f"always '{row['always']}': {row['name']}, {row['votes']} votes" for row in always),
    ]
    return "\n".join(lines)


def percent(rate: float) -> str:
    """A share."""
    return f"{100 * rate:.1f} %"


def interval(ends: Sequence[float]) -> str:
    """Of a share."""
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"
