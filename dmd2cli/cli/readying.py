"""From names and options to metrics that can be measured, each with the prompts that it asks for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from dmd2cli.errors import UserError, suggest
from dmd2cli.prompt_list import OPTIONS, PromptList, at_least_one, prompt_list
from dmd2cli.protocols import Metric
from dmd2cli.registry import load


@dataclass(frozen=True)
class Measure:
    """A metric that is there, how to make another, the prompts it is to be measured with, and images of each."""

    metric: Metric
    make: Callable[[], Metric]
    """Gives the one that is there first: opening a large reference takes a while."""
    prompts: PromptList | None
    per_prompt: int


def ready(
    chosen: Sequence[tuple[str, Mapping[str, Any]]],
    said: Mapping[str, Any],
    asked: PromptList | None,
    per_prompt: int | None,
    device: str,
) -> list[Measure]:
    """Each (name, options of a recipe), built with what was said on top. Raises UserError if one cannot be.

    asked: prompts that were named on the command line, for all of them.
    """
    if per_prompt is not None:
        at_least_one(per_prompt)
    found, taken = list[Measure](), set[str]()
    for name, own in chosen:
        factory = load("metrics", name)
        known = inspect.signature(factory).parameters
        mine = {key: value for key, value in said.items() if key in known}
        taken |= mine.keys()
        where = {"device": device} if "device" in known else {}
        k = per_prompt if per_prompt is not None else own.get("per_prompt")
        each = {"per_prompt": k} if k is not None and "per_prompt" in known else {}
        options = {**where, **{key: v for key, v in own.items() if key in known or key not in OPTIONS}, **mine, **each}
        check_names(name, options, known)
        found.append(measure(name, partial(factory, **options), own, asked, k))
    if foreign := [flag(key) for key in said if key not in taken]:
        raise UserError(f"{foreign[0]}: metric '{' and '.join(name for name, _ in chosen)}' does not take it")
    return found


def check_names(name: str, options: Mapping[str, Any], known: Mapping[str, inspect.Parameter]) -> None:
    """Raise UserError for an option that is missing, or that the metric does not have."""
    missing = [flag(key) for key, p in known.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if missing := [key for key in missing if key not in map(flag, options)]:
        raise UserError(f"metric '{name}' needs {' and '.join(missing)}")
    free = any(p.kind is p.VAR_KEYWORD for p in known.values())
    if unknown := [key for key in options if key not in known and not free]:
        raise UserError(f"metric '{name}' has no option {unknown[0]!r}{suggest(unknown[0], known)}")


def measure(
    name: str, make: Callable[[], Metric], own: Mapping[str, Any], asked: PromptList | None, per_prompt: int | None
) -> Measure:
    """Built, with its prompts: those asked for, or else those of its options in a recipe."""
    metric = make()
    k: Any = per_prompt if per_prompt is not None else getattr(metric, "per_prompt", 1)
    path, column = own.get("prompts"), own.get("column")
    for key, value, kind, what in (("prompts", path, str, "a file"), ("column", column, str, "a name"),
                                   ("per_prompt", k, int, "a whole number")):  # fmt: skip
        if value is not None and not isinstance(value, kind):
            raise UserError(f"metric '{name}': {key} must be {what}, got {value!r}")
    at_least_one(k)
    if asked is not None:
        prompts: PromptList | None = replace(asked, per_prompt=k)
    else:
        prompts = prompt_list(path, column, k) if path is not None else None
    return Measure(metric, handing(metric, make), prompts, k)


def handing(first: Metric, make: Callable[[], Metric]) -> Callable[[], Metric]:
    """A maker whose first metric is there already."""
    spare = [first]
    return lambda: spare.pop() if spare else make()


def flag(option: str) -> str:
    """An option of a metric as it is written on the command line."""
    return f"--{option.replace('_', '-')}"
