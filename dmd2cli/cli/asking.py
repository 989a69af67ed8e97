"""Which prompts `eval` draws for: those asked for, or of the recipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dmd2cli.cli.readying import Measure
from dmd2cli.cli.subject import count
from dmd2cli.data.base import condition
from dmd2cli.draws import Reads
from dmd2cli.errors import UserError
from dmd2cli.prompt_list import PromptList, of_texts
from dmd2cli.protocols import Raw

SAMPLES = 5000
"""Drawn if nobody says how many, and at most where prompts are those that a recipe trains with."""
LISTS = "a .txt, .jsonl, .csv, .tsv, .parquet, or COCO's captions_*.json"


@dataclass(frozen=True)
class Round:
    """Metrics that are measured on the same n samples. places: where their results belong."""

    measures: Sequence[Measure]
    places: Sequence[int]
    n: int
    raw: Sequence[Raw] | None = None
    """Conditions of the samples; None: the source's own in turn."""
    about: dict[str, Any] | None = None
    """What a protocol says of the prompts."""


def rounds(
    measures: Sequence[Measure],
    reads: Reads,
    name: str,
    n: int | None,
    own: Callable[[], PromptList | None] | None = None,
) -> list[Round]:
    """Metrics, those with the same prompts together. own: the prompts of the subject's recipe, where it has one.

    Raises UserError for prompts that are not read, and for a subject that reads prompts without any.
    """
    if not reads.prompts:
        what = "class labels" if reads.conditions else "no conditions"
        for m in measures:
            if m.prompts is not None:
                raise UserError(f"--prompts: {name} reads {what}, no prompts; leave --prompts out")
            if getattr(m.metric, "reads_prompts", False):
                raise UserError(f"{m.metric.name}: compares images with prompts, and {name} reads {what}; drop it")
        return [Round(measures, range(len(measures)), count(n, SAMPLES))]
    listed = _listed(measures, name, own)
    found = []
    for prompts in dict.fromkeys((one.where, one.column, one.per_prompt) for one, _ in listed):
        same = [(p, most, i) for i, (p, most) in enumerate(listed) if (p.where, p.column, p.per_prompt) == prompts]
        texts, most, _ = same[0]
        number = count(n, most)
        places = [i for *_, i in same]
        found.append(Round([measures[i] for i in places], places, number, texts.conditions(number), texts.about))
    return found


def _listed(
    measures: Sequence[Measure], name: str, own: Callable[[], PromptList | None] | None
) -> list[tuple[PromptList, int]]:
    """The prompts of each metric, and how many images are drawn unless somebody says."""
    fallback = own() if own is not None and any(m.prompts is None for m in measures) else None
    found = []
    for m in measures:
        if m.prompts is not None:
            found.append((m.prompts, m.prompts.total))
        elif fallback is not None:
            prompts = replace(fallback, per_prompt=m.per_prompt)
            found.append((prompts, min(prompts.total, SAMPLES)))
        else:
            raise UserError(f"{m.metric.name}: {name} reads prompts; name a list of them: --prompts FILE ({LISTS})")
    return found


def of_recipe(recipe: str) -> PromptList | None:
    """The prompts that a recipe trains with, None if it names none, or conditions that are no text."""
    from dmd2cli.recipe import load
    from dmd2cli.recipe_build import build

    use = load(recipe).data.prompts
    if use is None:
        return None
    dataset = build("datasets", use, "data.prompts")
    texts = [one for one in (condition(dataset, i) for i in range(len(dataset))) if isinstance(one, str)]
    if not texts:
        return None
    print(f"no prompts given: the {len(texts):,} of data.prompts in {recipe}", file=sys.stderr)
    return of_texts(f"data.prompts of {recipe}", texts)
