"""What a rule says of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dmd2cli.doctor.record import Record

UNKNOWN = "cause unknown"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: the signal that shows it, the usual cause, what to change."""

    rule: str
    signal: str
    value: float
    threshold: float
    says: str
    """In words, with the number."""
    cause: str
    change: Sequence[str] = ()
    """Overrides to paste behind the recipe, or commands."""


@dataclass(frozen=True)
class Rule:
    """What is asked of a run. `cause` rules read a signal that has one cause; others are symptoms of several."""

    name: str
    signal: str
    """The number that triggers it."""
    healthy: str
    """Where that number lies in a healthy run."""
    find: Callable[[Record], Finding | None]
