"""What `eval` does with its options: which metric takes which, and the measurement itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmd2cli.cli.asking import Round, of_recipe, rounds
from dmd2cli.cli.readying import Measure, ready
from dmd2cli.cli.subject import Subject, count, metrics_of
from dmd2cli.cli.there import grouping, there
from dmd2cli.engine import runtime
from dmd2cli.engine.evaluate import check, evaluate_all
from dmd2cli.errors import UserError
from dmd2cli.prompt_list import PromptList, prompt_list
from dmd2cli.source import Source


@dataclass(frozen=True)
class Wishes:
    """A metric or "all", the options said for it, and how to measure. images: what to measure if nothing is drawn.

    teacher: the recipe whose teacher is measured. prompts, column, per_prompt: a list of prompts, and images of each.
    """

    metric: str
    options: Mapping[str, Any]
    n: int | None
    seed: int
    baselines: bool
    device: str
    images: Path | None = None
    teacher: str | None = None
    prompts: str | None = None
    column: str | None = None
    per_prompt: int | None = None


def measured(wishes: Wishes, subject: Callable[[], Subject]) -> list[dict[str, Any]]:
    """The results of one metric, or of all in the subject's recipe. Raises UserError for what cannot be had.

    A metric by name is built before its subject: what is wrong with its options is answered at once.
    """
    count(wishes.n, 1)
    asked = prompt_list(wishes.prompts, wishes.column, wishes.per_prompt or 1) if wishes.prompts else None
    named = _ready([(wishes.metric, {})], wishes, asked) if wishes.metric != "all" else None
    if wishes.images is not None:
        if named is None:
            raise UserError("all: images have no recipe that names metrics; name one, such as dmd2 eval fid")
        pictures, one = there(wishes.images, named[0], wishes.n, wishes.column)
        return _results([one], pictures, wishes, None, "images", str(wishes.images))
    if named is not None and (wishes.n is not None or asked is not None):
        check([m.metric for m in named], wishes.n or _total(named[0]))
    found = subject()
    measures = named or _ready(metrics_of(wishes.metric, found), wishes, asked)
    recipe = wishes.teacher
    own = (lambda: of_recipe(recipe)) if recipe is not None else None
    todo = rounds(measures, found.source.teacher, found.name, wishes.n, own)
    if wishes.per_prompt is not None and not any(one.about or grouping(m) for one in todo for m in one.measures):
        raise UserError(f"--per-prompt {wishes.per_prompt}: {found.name} reads no prompts; leave it out")
    for one in todo:
        check([m.metric for m in one.measures], one.n)
    behind = found.teacher() if wishes.baselines and found.teacher else None
    role = "student" if found.teacher else "teacher"
    return _results(todo, found.source, wishes, behind, role, found.name)


def _ready(chosen: Sequence[tuple[str, Mapping[str, Any]]], wishes: Wishes, asked: PromptList | None) -> list[Measure]:
    return ready(chosen, wishes.options, asked, wishes.per_prompt, str(runtime.device(wishes.device)))


def _total(measure: Measure) -> int:
    assert measure.prompts is not None, "prompts were asked for"
    return measure.prompts.total


def _results(
    todo: Sequence[Round], source: Any, wishes: Wishes, behind: Source | None, role: str, name: str
) -> list[dict[str, Any]]:
    """Of all rounds, in the order of their metrics."""
    found: dict[int, dict[str, Any]] = {}
    for one in todo:
        makers = [m.make for m in one.measures]
        results = evaluate_all(makers, source, one.n, wishes.seed, behind, role, one.raw)
        for place, numbers in zip(one.places, results, strict=True):
            numbers["protocol"] |= {"prompts": one.about} if one.about else {}
            found[place] = {"subject": name, **numbers}
    return [found[place] for place in sorted(found)]
