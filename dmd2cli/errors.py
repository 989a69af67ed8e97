"""The two errors that a person is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input, in one line: what, where, what to do. The command line prints it and exits with 2."""


class Diverged(Exception):
    """Training left the finite numbers and was stopped. The command line exits with 3."""


def suggest(name: str, choices: Iterable[str]) -> str:
    """The tail of an unknown-name message: the nearest of `choices`, or all of them when none is near."""
    known = sorted(choices)
    if near := difflib.get_close_matches(name, known, n=1):
        return f"; did you mean '{near[0]}'?"
    return f"; choose from {', '.join(known)}" if known else "; there is none to choose from"
