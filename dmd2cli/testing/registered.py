"""`dmd2 plugins check`: every check of a registered plugin, one outcome each, whatever the plugin does."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from pydantic.errors import PydanticUserError

from dmd2cli import registry
from dmd2cli.errors import UserError
from dmd2cli.recipe_build import check_options
from dmd2cli.recipe_parts import Use
from dmd2cli.testing.outcome import Outcome, outcome
from dmd2cli.testing.said import promise, say, title
from dmd2cli.testing.subjects import Asked, pairs

PLAIN = ("exporters", "weightings")
"""Kinds whose registered object is the plugin: it takes no options."""


def chosen(name: str, kind: str | None = None) -> list[tuple[str, registry.Plugin]]:
    """(kind, plugin) of every plugin of a name, and of all of a distribution of that name.

    Raises UserError if there is none.
    """
    every = [(k, plugin) for k in registry.KINDS for plugin in registry.describe(k)]
    wanted = registry.normal(name)
    found = [(k, p) for k, p in every if wanted in (registry.normal(p.name), registry.normal(p.distribution))]
    of_kind = [(k, p) for k, p in found if kind in (None, k)]
    if of_kind:
        return of_kind
    if found:
        kinds = ", ".join(dict.fromkeys(registry.KINDS[k] for k, _ in found))
        raise UserError(f"{name}: registers no {registry.KINDS[kind or '']}, but: {kinds}")
    near = get_close_matches(name, {p.name for _, p in every} | {p.distribution for _, p in every}, n=1)
    advice = f"did you mean '{near[0]}'?" if near else "dmd2 plugins list has them all"
    hidden = " (DMD2_PLUGINS is set and may hide it)" if "DMD2_PLUGINS" in os.environ else ""
    raise UserError(f"{name}: no plugin of this name, and no package that registers one; {advice}{hidden}")


def examine(kind: str, plugin: registry.Plugin, asked: Asked) -> Iterator[Outcome]:
    """The outcomes of a plugin's checks, each as it is known. What the plugin prints goes to stderr."""
    judge = partial(judged, module=plugin.target.partition(":")[0].strip())
    found = judge("import", f"{plugin.target} can be imported and called", partial(imported, plugin, asked))
    yield found
    if not found.ok:
        return
    if kind not in PLAIN:
        yield judge("options", "Its options have types, and their defaults fit", partial(options, asked))
    with tempfile.TemporaryDirectory(prefix="dmd2-check-") as folder:
        todo = list[tuple[Any, Any]]()
        found = judge("build", "It can be built as a recipe would", lambda: todo.extend(pairs(asked, Path(folder))))
        yield found
        told: dict[str, str] = {} if found.ok else {found.says: "build"}
        for check, subject in todo:
            found = judge(title(check), promise(check), partial(check, subject))
            if not found.ok and found.says in told:
                found = Outcome(found.check, None, f"not judged: as in {told[found.says]}", found.seconds)
            told.setdefault(found.says, found.check)
            yield found


def judged(name: str, holds: str, run: Callable[[], None], module: str) -> Outcome:
    """outcome(), with what the plugin prints on stderr: stdout is ours."""
    with contextlib.redirect_stdout(sys.stderr):
        return outcome(name, holds, run, module)


def imported(plugin: registry.Plugin, asked: Asked) -> None:
    """Raise UserError, or what importing raised, unless the plugin's object can be had and called."""
    if plugin.problem:
        raise UserError(plugin.problem)
    try:
        found = asked.factory
    except UserError as err:
        raise err.__cause__ if isinstance(err.__cause__, SyntaxError) else err from None
    say(callable(found), f"{plugin.target} must be a function or a class, not {type(found).__name__}")


def options(asked: Asked) -> None:
    """Raise Broken unless every option has a type annotation that can be checked, and a default that fits it."""
    parameters = inspect.signature(asked.factory).parameters.values()
    own = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "skeleton"]
    bare = [p.name for p in own if p.annotation is p.empty]
    say(not bare, f"option {', '.join(bare)} has no type annotation: a wrong value in a recipe would not be refused")
    defaults = {p.name: p.default for p in own if p.default is not p.empty and plain(p.default)}
    odd = [p.name for p in own if p.name not in defaults and p.default is not p.empty and not factory_default(p)]
    say(not odd, f"the default of option {', '.join(odd)} is no plain value; a recipe holds numbers, texts, lists")
    used = Use(use=asked.use.use, **{**defaults, **asked.use.options})
    try:
        check_options(asked.kind, used, asked.use.use, "skeleton")
    except PydanticUserError as err:
        say(False, f"a type annotation of the options is not known at run time: {str(err).splitlines()[0]}")
    except UserError as err:
        if not needs_value(err, own, asked):
            raise


def needs_value(err: UserError, own: list[inspect.Parameter], asked: Asked) -> bool:
    """Whether an option without a default was not given: that is told where the plugin is built."""
    missing = [p.name for p in own if p.default is p.empty and p.name not in asked.use.options]
    return any(name in str(err) for name in missing)


def plain(value: object) -> bool:
    """Whether a recipe can hold a value."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def factory_default(parameter: inspect.Parameter) -> bool:
    """Whether a dataclass makes the default anew for each object."""
    return type(parameter.default).__name__ == "_HAS_DEFAULT_FACTORY_CLASS"
