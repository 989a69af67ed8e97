"""What a new study compares: the items that all arms have, and where each arm has its images of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dmd2cli.errors import UserError
from dmd2cli.study.arms import AnyArm, Drawn, Files
from dmd2cli.study.matching import named, of_prompts, paired
from dmd2cli.study.set import MOST_TEXT, Item

if TYPE_CHECKING:
    from dmd2cli.protocols import Raw

N = 64
"""Images of each arm where nothing says how many."""


@dataclass(frozen=True)
class Plan:
    """The items, and what each is drawn from. places: name of an arm of files -> its images, item by item."""

    items: Sequence[Item]
    raw: Sequence[Raw]
    seed: int | Sequence[int]
    """As Drawn.draw takes it."""
    places: Mapping[str, Sequence[int]]


def planned(arms: Sequence[AnyArm], texts: Sequence[str], seeds: Sequence[int] | None, n: int | None) -> Plan:
    """Items for some arms. texts: prompts, or none. seeds: as given. n: images of each arm, if they are drawn.

    Raises UserError for arms that do not fit together.
    """
    names = [arm.name for arm in arms]
    if len(names) < 2:
        raise UserError("a study compares two arms or more: give --a and --b, or several --student")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two arms are called '{twice}'; name them with --name-a, --name-b or --more NAME=DIR")
    if long := next((text for text in texts if len(text) > MOST_TEXT), None):
        raise UserError(f"prompt '{long[:40]}...': {len(long)} characters; at most {MOST_TEXT} fit on the page")
    files, drawn = [arm for arm in arms if isinstance(arm, Files)], [arm for arm in arms if isinstance(arm, Drawn)]
    if n is not None and (files or texts):
        raise UserError(f"-n {n}: the images or prompts that are given say how many; leave -n out")
    return of_texts(files, drawn, texts, seeds) if texts else without(files, drawn, seeds, n)


def of_texts(files: Sequence[Files], drawn: Sequence[Drawn], texts: Sequence[str], seeds: Sequence[int] | None) -> Plan:
    """One item for each prompt and seed, all prompts in turn."""
    for arm in drawn:
        if not arm.reads:
            raise UserError(f"'{arm.name}': reads no prompts; leave --prompts out")
    given = None if seeds is None else len(seeds)
    places = {arm.name: of_prompts(named(arm.name, arm.source), texts, given) for arm in files}
    sizes = {name: len(found) for name, found in places.items()}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"'{name}' {n}" for name, n in sizes.items())
        raise UserError(f"the arms have different numbers of images: {said}; give each the same")
    rounds = given or next(iter(sizes.values()), len(texts)) // len(texts)
    each = list(seeds or range(rounds)) if drawn or seeds else [None] * rounds
    items = [Item(text, seed) for seed in each for text in texts]
    return Plan(items, [item.text for item in items], [item.seed or 0 for item in items], places)


def without(files: Sequence[Files], drawn: Sequence[Drawn], seeds: Sequence[int] | None, n: int | None) -> Plan:
    """Items of images that are paired with each other; students draw their classes in turn."""
    if seeds is not None and (len(seeds) > 1 or not drawn):
        raise UserError("--seeds: needs --prompts, or one seed and a student; leave it out")
    for arm in drawn:
        if not arm.conditions:
            raise UserError(f"'{arm.name}': draws from text; give --prompts FILE")
    found = paired([named(arm.name, arm.source) for arm in files]) if files else []
    places = {arm.name: own for arm, own in zip(files, found, strict=True)}
    count = len(found[0]) if found else (n or N)
    turns = {arm.name: [arm.conditions[i % len(arm.conditions)] for i in range(count)] for arm in drawn}
    labels = {arm.name: [arm.text(place) for place in places[arm.name]] for arm in files}
    labels |= {name: [None if one is None else str(one) for one in raw] for name, raw in turns.items()}
    seed = (seeds or [0])[0]
    items = [Item(text, seed if drawn else None) for text in agreed(labels, count)]
    return Plan(items, next(iter(turns.values()), []), seed, places)


def agreed(labels: Mapping[str, Sequence[str | None]], count: int) -> list[str | None]:
    """The classes of items. Raises UserError if two arms show different ones."""
    found: list[str | None] = []
    for item in range(count):
        said = {name: own[item] for name, own in labels.items() if own[item] is not None}
        if len(set(said.values())) > 1:
            (one, text), (two, other) = next(iter(said.items())), next(reversed(said.items()))
            raise UserError(f"image {item} is of class {text} in '{one}' and {other} in '{two}'; put them in one order")
        found.append(next(iter(said.values()), None))
    return found
