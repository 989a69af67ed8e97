"""All rules over a run, as one verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dmd2cli.doctor.causes import CAUSES
from dmd2cli.doctor.finding import UNKNOWN, Finding, Rule
from dmd2cli.doctor.record import Record
from dmd2cli.doctor.symptoms import SYMPTOMS, symptoms

RULES: Sequence[Rule] = (*CAUSES, *SYMPTOMS)
FEWEST = 3
"""Measurements of health before the absence of findings says anything."""


@dataclass(frozen=True)
class Verdict:
    """healthy, unhealthy, or too early to say."""

    run: Path
    verdict: Literal["healthy", "unhealthy", "too early"]
    step: int
    steps: int
    findings: Sequence[Finding]
    signals: dict[str, float]
    """The newest state of all that the rules read."""
    best: dict[str, Any] | None = None
    """The step with the best validation so far, and its score."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"run": str(self.run)}


def diagnose(run: Record) -> Verdict:
    """Ask all rules. A symptom's cause is what the rules with one cause have found, or unknown."""
    causes = [one for rule in CAUSES if (one := rule.find(run)) is not None]
    follow = [replace(one, cause=because(causes)) for one in symptoms(run)]
    early = run.measurements < FEWEST
    verdict: Literal["healthy", "unhealthy", "too early"] = "too early" if early else "healthy"
    found = [*causes, *([] if early else follow)]
    state = "unhealthy" if found else verdict
    return Verdict(run.folder, state, run.step, run.recipe.run.steps, found, signals(run), best(run))


def signals(run: Record) -> dict[str, float]:
    """The newest state of everything that rules read."""
    names = [name for name in run.names if name.startswith(("health/", "validation/")) or name.endswith("/skipped")]
    found = {name: run.recent(name) for name in names} | {"critic/lag": run.overall("critic/lag")}
    found |= {f"{player}/clip_rate": run.clip_rate(player) for player in ("generator", "critic")}
    found["run.batch"] = float(run.recipe.run.batch)
    return {name: value for name, value in found.items() if value is not None}


def because(causes: Sequence[Finding]) -> str:
    """What a symptom follows from."""
    return f"follows from {causes[0].rule}: {causes[0].cause}" if causes else UNKNOWN


def best(run: Record) -> dict[str, Any] | None:
    """The lowest validation score that was logged."""
    scores = [(value, step) for step, value in run.series("validation/score") if value == value]
    return {"score": min(scores)[0], "step": min(scores)[1]} if scores else None
