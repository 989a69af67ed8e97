"""What every check is made of: a function of its subject that says in words what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

Subject = TypeVar("Subject")
Check = Callable[[Any], None]
"""Raises Broken, or returns. Its name and the first line of its docstring are what a person reads of it."""


class Broken(AssertionError):
    """A plugin does not keep its protocol: what is wrong, and what to do."""


def say(ok: object, problem: str) -> None:
    """Raise Broken(problem) unless ok: an assert that also works under python -O."""
    if not ok:
        raise Broken(problem)


def every(checks: Iterable[Callable[[Subject], None]], subject: Subject) -> None:
    """All checks in order; the first that fails ends it."""
    for check in checks:
        check(subject)


def title(check: Check) -> str:
    """The name of a check as a person reads it."""
    return check.__name__.removeprefix("check_").replace("_", " ")


def promise(check: Check) -> str:
    """What holds where a check passes: the first line of its docstring."""
    return (check.__doc__ or "").strip().partition("\n")[0].removesuffix(".")
