"""What `eval` does with its options: which metric takes which, and the measurement itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dmd2cli.cli.subject import Subject, count, metrics_of
from dmd2cli.engine import runtime
from dmd2cli.engine.evaluate import check, evaluate_all
from dmd2cli.errors import UserError
from dmd2cli.pictures import open_pictures
from dmd2cli.protocols import Metric
from dmd2cli.registry import load

SAMPLES = 5000
"""Drawn if nobody says how many."""
Makers = Sequence[Callable[[], Metric]]


@dataclass(frozen=True)
class Wishes:
    """A metric or "all", the options said for it, and how to measure. images: what to measure if nothing is drawn."""

    metric: str
    options: Mapping[str, Any]
    n: int | None
    seed: int
    baselines: bool
    device: str
    images: Path | None = None


def measured(wishes: Wishes, subject: Callable[[], Subject]) -> list[dict[str, Any]]:
    """The results of one metric, or of all in the subject's recipe. Raises UserError for what cannot be had.

    A metric by name is built before its subject: what is wrong with its options is answered at once.
    """
    pictures = open_pictures(wishes.images) if wishes.images is not None else None
    n = count(wishes.n, SAMPLES if pictures is None else len(pictures))
    if pictures is not None and n > len(pictures):
        raise UserError(f"-n {n}: {pictures.path} has {len(pictures)} images")
    named = ready([(wishes.metric, {})], wishes, n) if wishes.metric != "all" else None
    if pictures is not None:
        if named is None:
            raise UserError("all: images have no recipe that names metrics; name one, such as dmd2 eval fid")
        return _with_subject(evaluate_all(named, pictures, n, wishes.seed, name="images"), str(wishes.images))
    found = subject()
    makers = named or ready(metrics_of(wishes.metric, found), wishes, n)
    behind = found.teacher() if wishes.baselines and found.teacher else None
    role = "student" if found.teacher else "teacher"
    return _with_subject(evaluate_all(makers, found.source, n, wishes.seed, behind, role), found.name)


def ready(chosen: Sequence[tuple[str, Mapping[str, Any]]], wishes: Wishes, n: int) -> Makers:
    """A maker of each (name, options of a recipe) with what was said on top. Raises UserError if one cannot be made."""
    found, taken = list[Callable[[], Metric]](), set[str]()
    for name, own in chosen:
        factory = load("metrics", name)
        known = inspect.signature(factory).parameters
        said = {key: value for key, value in wishes.options.items() if key in known}
        taken |= said.keys()
        place = {"device": str(runtime.device(wishes.device))} if "device" in known else {}
        options = {**place, **own, **said}
        missing = [flag(key) for key, p in known.items() if p.default is p.empty and key not in options]
        if missing:
            raise UserError(f"metric '{name}' needs {' and '.join(missing)}")
        found.append(partial(factory, **options))
    if foreign := [flag(key) for key in wishes.options if key not in taken]:
        raise UserError(f"{foreign[0]}: metric '{' and '.join(name for name, _ in chosen)}' does not take it")
    built = [make() for make in found]
    check(built, n)
    return [handing(first, make) for first, make in zip(built, found, strict=True)]


def handing(first: Metric, make: Callable[[], Metric]) -> Callable[[], Metric]:
    """A maker whose first metric is there already: opening a large reference takes a while."""
    spare = [first]
    return lambda: spare.pop() if spare else make()


def flag(option: str) -> str:
    """An option of a metric as it is written on the command line."""
    return f"--{option.replace('_', '-')}"


def _with_subject(results: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [{"subject": name, **numbers} for numbers in results]
