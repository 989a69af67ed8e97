"""What `eval` does with its options: which metric takes which, and the measurement itself."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dmd2cli.cli.asking import Round, of_recipe, rounds
from dmd2cli.cli.readying import Measure, ready
from dmd2cli.cli.subject import Subject, count, metrics_of
from dmd2cli.cli.table import table as aligned
from dmd2cli.cli.there import grouping, there
from dmd2cli.comparison import Comparison
from dmd2cli.comparison_text import header, lines
from dmd2cli.engine import runtime
from dmd2cli.engine.checkpoint import write_json
from dmd2cli.engine.evaluate import Drawn, check, evaluate_all
from dmd2cli.errors import UserError
from dmd2cli.installation.tested import mention_torch
from dmd2cli.over_seeds import pooled
from dmd2cli.prompt_list import PromptList, prompt_list

MOST = 1000
"""Seeds that are measured."""


@dataclass(frozen=True)
class Wishes:
    """Metrics, the options said for them, and how to measure. images: what to measure if nothing is drawn.

    chosen: metrics with their options, as a recipe has them; None: all of the subject's recipe. seeds: each is a
    measurement. teacher: the recipe whose teacher is measured. prompts, column, per_prompt: a list, images of each.
    """

    chosen: Sequence[tuple[str, Mapping[str, Any]]] | None
    options: Mapping[str, Any]
    n: int | None
    seeds: Sequence[int]
    baselines: bool
    device: str
    images: Path | None = None
    teacher: str | None = None
    prompts: str | None = None
    column: str | None = None
    per_prompt: int | None = None


def options_of(
    reference: str | None, protocol: str | None, extractor: str | None, model: str | None, weights: str | None,
    allow_small: bool,
) -> dict[str, Any]:                                                                                # fmt: skip
    """The options of metrics that were said."""
    said = {"reference": reference, "protocol": protocol, "extractor": extractor, "model": model, "weights": weights}
    return {k: v for k, v in {**said, "allow_small": allow_small or None}.items() if v is not None}


def chosen_of(metrics: str) -> list[tuple[str, Mapping[str, Any]]] | None:
    """The metrics of "fid,kid" without options; None of "all". Raises UserError for a name that is given twice."""
    names = metrics.split(",")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{metrics}: {twice[0]} is named twice; name it once")
    return None if metrics == "all" else [(name.strip(), {}) for name in names]


def seeds_of(seed: int | None, seeds: str | None) -> tuple[int, ...]:
    """The seed, or those of "0..2" or "0,1,2"; (0,) if nothing is said. Raises UserError for other text."""
    if seeds is None:
        return (seed or 0,)
    if seed is not None:
        raise UserError("--seed and --seeds exclude each other: one seed, or several to tell how sure a number is")
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", seeds)
    if ends is None and not re.fullmatch(r"\d+(,\d+)*", seeds):
        raise UserError(f"--seeds {seeds}: expected whole numbers, as 0..2 or 0,1,2")
    found = range(int(ends[1]), int(ends[2]) + 1) if ends else [int(one) for one in seeds.split(",")]
    if not 0 < len(found) <= MOST or len(set(found)) < len(found):
        raise UserError(f"--seeds {seeds}: name 1 to {MOST} seeds, each once, the smaller first")
    return tuple(found)


def tell(results: list[dict[str, Any]], json_file: Path | None, every: bool) -> None:
    """Print results as JSON, and a table of them on stderr if there is more than one number to see.

    every: all metrics were asked for, so that a list is printed, also of one.
    """
    found = results if every or len(results) > 1 else results[0]
    if json_file is not None:
        write_json(json_file, found)
    print(json.dumps(found, indent=2))
    if every or len(results) > 1 or "seeds" in results[0]:
        table = Comparison(separate=True)
        table.add(results[0]["subject"], results, "teacher")
        print(aligned(header(table), lines(table)), file=sys.stderr)


def measured(wishes: Wishes, subject: Callable[[], Subject]) -> list[dict[str, Any]]:
    """A result for each metric, over all seeds. Raises UserError for what cannot be had.

    A metric by name is built before its subject: what is wrong with its options is answered at once.
    """
    count(wishes.n, 1)
    asked = prompt_list(wishes.prompts, wishes.column, wishes.per_prompt or 1) if wishes.prompts else None
    named = _ready(wishes.chosen, wishes, asked) if wishes.chosen is not None else None
    if wishes.images is not None:
        if named is None:
            raise UserError("all: images have no recipe that names metrics; name one, such as dmd2 eval fid")
        pairs = [there(wishes.images, one, place, wishes.n, wishes.column) for place, one in enumerate(named)]
        once = replace(wishes, seeds=wishes.seeds[:1])
        return [r for source, one in pairs for r in _results([one], source, once, None, "images", str(wishes.images))]
    if named is not None and (wishes.n is not None or asked is not None):
        check([m.metric for m in named], wishes.n or _total(named[0]))
    mention_torch()
    found = subject()
    measures = named or _ready(metrics_of("all", found), wishes, asked)
    recipe = wishes.teacher
    own = (lambda: of_recipe(recipe)) if recipe is not None else None
    todo = rounds(measures, found.source.reads, found.name, wishes.n, own)
    if wishes.per_prompt is not None and not any(one.about or grouping(m) for one in todo for m in one.measures):
        raise UserError(f"--per-prompt {wishes.per_prompt}: {found.name} reads no prompts; leave it out")
    for one in todo:
        check([m.metric for m in one.measures], one.n)
    behind = found.teacher() if wishes.baselines and found.teacher else None
    return _results(todo, found.source, wishes, behind, found.kind, found.name)


def _ready(chosen: Sequence[tuple[str, Mapping[str, Any]]], wishes: Wishes, asked: PromptList | None) -> list[Measure]:
    return ready(chosen, wishes.options, asked, wishes.per_prompt, str(runtime.device(wishes.device)))


def _total(measure: Measure) -> int:
    assert measure.prompts is not None, "prompts were asked for"
    return measure.prompts.total


def _results(
    todo: Sequence[Round], source: Drawn, wishes: Wishes, behind: Drawn | None, role: str, name: str
) -> list[dict[str, Any]]:
    """Of all rounds, in the order of their metrics."""
    found: dict[int, dict[str, Any]] = {}
    for one in todo:
        makers = [m.make for m in one.measures]
        each = [evaluate_all(makers, source, one.n, seed, behind, role, one.raw) for seed in wishes.seeds]
        for place, results in zip(one.places, zip(*each, strict=True), strict=True):
            numbers = pooled(results, wishes.seeds)
            numbers["protocol"] |= {"prompts": one.about} if one.about else {}
            found[place] = {"subject": name, **numbers}
    return [found[place] for place in sorted(found)]
