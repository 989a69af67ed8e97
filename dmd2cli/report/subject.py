"""What a report says of one run beside its curves: verdict, best student, samples, circumstances."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dmd2cli.doctor.record import Record
from dmd2cli.doctor.verdict import Verdict, diagnose
from dmd2cli.recipe import differences
from dmd2cli.recipe_health import SCORE
from dmd2cli.report.clock import Taken, taken
from dmd2cli.report.pictures import Picture

LETTERS = "ABCDEFGHIJKL"
"""Of several runs, which are told apart by them; so many can be compared."""
VERDICTS = {"healthy": "Healthy", "unhealthy": "Unhealthy", "too early": "Too early to say"}


@dataclass(frozen=True)
class Subject:
    """A run in a report."""

    letter: str
    """"" where there is one run."""
    number: int
    """Which colour and dashes it has."""
    run: Record
    verdict: Verdict
    pictures: Sequence[Picture] = ()
    teacher: Picture | None = None
    price: float | None = None
    """Of one device for an hour."""

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.run.folder.name or str(self.run.folder)

    @property
    def title(self) -> str:
        """With the letter, if it has one."""
        return f"{self.letter}: {self.name}" if self.letter else self.name

    @property
    def said(self) -> str:
        """The verdict."""
        return VERDICTS[self.verdict.verdict]

    @property
    def progress(self) -> str:
        """How far it is."""
        done, asked = self.verdict.step, self.verdict.steps
        return f"step {done:,} of {asked:,}" + (" (finished)" if done >= asked else f", {done / asked:.0%}")

    @property
    def metric(self) -> str:
        """Of the validation; "" without one."""
        asked = self.run.recipe.health.validation
        return asked.use if asked is not None else ""

    @property
    def best(self) -> str:
        """The best validation in words; "" without one."""
        if (best := self.verdict.best) is None:
            return ""
        score, now = best["score"], self.run.series(SCORE)[-1][1]
        return f"{self.metric} {abs(score):.4g} at step {best['step']:,}; newest {abs(now):.4g}"

    @property
    def command(self) -> str:
        """How to draw with the best student, else with the newest; "" if there is none yet."""
        folder = self.run.folder
        for student, given in ((folder / "best", folder / "best"), (folder / "student", folder)):
            if (student / "student.json").is_file():
                return f"dmd2 sample --student {shlex.quote(str(given))}"
        return ""

    @property
    def taken(self) -> Taken | None:
        """How long it took."""
        return taken(self.run.folder)

    @property
    def changed(self) -> list[tuple[str, str, str]]:
        """(key, packaged value, value here) of what differs from the packaged recipe it was started from."""
        packaged = self.run.reference
        found = [] if packaged is None else differences(packaged, self.run.recipe)
        return [(key, plain(old), plain(new)) for key, old, new in found]

    def facts(self) -> list[tuple[str, str]]:
        """(what, value) of the circumstances; what is not known is left out."""
        facts, folder = self.run.facts, self.run.folder
        versions = ", ".join(f"{name} {value}" for name, value in mapping(facts.get("versions")).items())
        recipe, modified = self.run.recipe, (folder / "metrics.jsonl").stat().st_mtime
        logged = datetime.fromtimestamp(modified, tz=timezone.utc)
        found = [
            ("Folder", str(folder)),
            ("Command", str(facts.get("command") or "")),
            ("Recipe", self.run.packaged or ""),
            ("Teacher", recipe.teacher.use),
            ("Student", f"{len(recipe.student.times)} step" + "s" * (len(recipe.student.times) > 1)),
            ("Batch", str(recipe.run.batch)),
            ("Seed", str(facts.get("seed", recipe.run.seed))),
            ("Hardware", hardware(facts)),
            ("Versions", versions),
            ("Commit", str(facts.get("commit") or "")),
            ("Last written", f"{logged:%Y-%m-%d %H:%M} UTC"),
            *self.cost(),
        ]
        return [(what, value) for what, value in found if value]

    def cost(self) -> list[tuple[str, str]]:
        """Wall time, time of all devices, and what that costs."""
        from dmd2cli.engine.progress import duration

        if (found := self.taken) is None:
            return [("Wall time", "not known: neither TensorBoard files nor file times tell")]
        devices = mapping(self.run.facts.get("ranks")).get("count")
        devices = devices if isinstance(devices, int) and devices > 0 else 1
        hours = found.seconds / 3600 * devices
        rows = [("Wall time", f"{duration(found.seconds)}, {found.source}"), ("Device hours", f"{hours:.3g}")]
        if self.price is not None:
            rows.append(("Cost", f"{hours * self.price:.2f}, at {self.price:g} for a device and hour"))
        return rows


def subject(run: Record, number: int, several: bool, **more: Any) -> Subject:
    """Of a run that was read."""
    return Subject(LETTERS[number] if several else "", number, run, diagnose(run), **more)


def compared(subjects: Sequence[Subject]) -> list[tuple[str, list[str]]]:
    """(key, its value in every run) of all keys in which the recipes are not the same."""
    first, found = subjects[0].run.recipe, dict[str, dict[int, Any]]()
    base = dict[str, Any]()
    for i, one in enumerate(subjects[1:], 1):
        for key, old, new in differences(first, one.run.recipe):
            found.setdefault(key, {})[i] = new
            base[key] = old
    return [(key, [plain(values.get(i, base[key])) for i in range(len(subjects))]) for key, values in found.items()]


def hardware(facts: Mapping[str, Any]) -> str:
    """The device, and how many."""
    found, ranks = mapping(facts.get("hardware")), mapping(facts.get("ranks")).get("count", 1)
    name = " ".join(str(found[key]) for key in ("name", "device") if found.get(key))
    threads = f", {found['threads']} thread" + "s" * (found["threads"] != 1) if "threads" in found else ""
    return f"{ranks} x {name}{threads}" if name else ""


def mapping(value: Any) -> Mapping[str, Any]:
    """A mapping, {} for anything else."""
    return value if isinstance(value, Mapping) else {}


def plain(value: Any) -> str:
    """A value of a recipe as a line of YAML has it."""
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def folder_of(path: Path) -> Path:
    """As it was named; the folder that "." stands for by its name."""
    return path if path.name else path.resolve()
