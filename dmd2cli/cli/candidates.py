"""The subjects of `eval compare` and `eval speed`: what each is by its text, and how it is opened."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmd2cli.cli.drawing import Wishes
from dmd2cli.cli.piped import asked as asked_of_pipeline
from dmd2cli.cli.subject import Subject, subject
from dmd2cli.errors import UserError
from dmd2cli.pipelines.spec import KEYS, converted, divided

OPTIONS = {"student": ("steps", "guidance"), "teacher": ("steps", "guidance", "sampler"), "pipeline": KEYS,
           "images": (), "results": ()}                                                             # fmt: skip
"""Kind of a subject -> what may follow it, besides name=."""
NEEDED = {"metric": str, "value": int | float, "n": int, "protocol": dict}
"""What a result must say, and of which type."""


@dataclass(frozen=True)
class Candidate:
    """A subject as it was named: a kind of OPTIONS, where it is, and its options."""

    name: str
    kind: str
    ref: str
    wishes: Wishes = field(default_factory=Wishes)

    def open(self, device: str, download: bool = False) -> Subject:
        """What draws. Raises UserError if it cannot be had."""
        refs: dict[str, Any] = {"student": None, "teacher": None, "pipeline": None, self.kind: self.ref}
        wishes, allowed = self.wishes, download or None if self.kind == "student" else None
        return subject(
            refs["student"], refs["teacher"], wishes.steps, wishes.guidance, device, wishes,
            download=allowed, pipeline=refs["pipeline"],
        )  # fmt: skip

    def results(self) -> list[dict[str, Any]]:
        """What a file of `dmd2 eval --json` holds. Raises UserError if it is none."""
        try:
            found = json.loads(Path(self.ref).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError) as err:
            raise UserError(f"{self.ref}: cannot be read as JSON ({' '.join(str(err).split())[:100]})") from None
        rows = found if isinstance(found, list) else [found]
        if not rows or not all(is_result(row) for row in rows):
            raise UserError(f"{self.ref}: holds no results; write one with dmd2 eval METRIC --json FILE")
        return rows

    def check(self) -> None:
        """Raise UserError, before anything is measured, for what is not there."""
        checks[self.kind](self)


def candidates(texts: Sequence[str]) -> list[Candidate]:
    """Of what was named. Raises UserError for options that there are not, and two of one name."""
    found = [candidate(text) for text in texts]
    for i, one in enumerate(found):
        if any(one.name == other.name for other in found[:i]):
            raise UserError(f"{one.name}: is named twice; tell them apart: {one.ref},name=OTHER")
    return found


def candidate(text: str) -> Candidate:
    """KIND:REF[,option=value...][,name=NAME], a student's REF, or a file of results."""
    kind, _, rest = text.partition(":")
    if kind not in OPTIONS or kind == "results" or Path(text).expanduser().exists():
        kind, rest = "student", text
    ref, said = divided(rest, [*OPTIONS[kind], "name"])
    if kind == "student" and ref.endswith(".json") and not said.keys() - {"name"}:
        kind = "results"
    name = said.pop("name", None) or (text if kind == "pipeline" else ref)
    return Candidate(" ".join(name.split()), kind, ref, wishes(said))


def wishes(said: dict[str, str]) -> Wishes:
    """Options of a text as those of a command. Raises UserError for numbers that are none."""
    numbers = {**converted(said, {"steps": int}), **converted(said, {"guidance": float, "lora_weight": float})}
    return Wishes(**{**said, **numbers})                                           # type: ignore[arg-type]


def is_result(row: Any) -> bool:
    """Whether it is what `dmd2 eval` prints of a metric."""
    return isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in NEEDED.items())


def _student(one: Candidate) -> None:
    from dmd2cli import published
    from dmd2cli.student import find

    if published.known(one.ref) is None:
        find(Path(one.ref))


def _teacher(one: Candidate) -> None:
    from dmd2cli.recipe import load

    load(one.ref)


def _images(one: Candidate) -> None:
    if not Path(one.ref).expanduser().exists():
        raise UserError(f"images:{one.ref}: no such file or folder; check the path")


def _pipeline(one: Candidate) -> None:
    from dmd2cli.pipelines.folder import index, located

    index(located(asked_of_pipeline(one.ref, one.wishes).path))


checks: dict[str, Callable[[Candidate], object]] = {
    "student": _student, "teacher": _teacher, "images": _images, "pipeline": _pipeline,
    "results": lambda one: one.results(),
}  # fmt: skip
