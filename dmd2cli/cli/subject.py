"""What `sample` and `eval` work on: a student by reference, the newest run, or a recipe's teacher."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dmd2cli.cli.default_subject import default
from dmd2cli.cli.drawing import Wishes, cast, dressed, of_student, overrides
from dmd2cli.draws import Draws
from dmd2cli.errors import UserError
from dmd2cli.protocols import Raw
from dmd2cli.source import Source


@dataclass(frozen=True)
class Subject:
    """Something to draw with: its name, what draws, and how to get the teacher behind a student."""

    name: str
    source: Draws
    teacher: Callable[[], Source] | None = None
    metrics: Sequence[Mapping[str, Any]] = ()
    """What the recipe measures it with: {"use": name, option: value, ...}."""
    network: str | None = None
    """identity() of the source, where it was asked for."""
    kind: Literal["student", "teacher", "pipeline"] = "student"
    behind: str = ""
    """Which teacher that is, and how it draws: students of one teacher say the same."""


def subject(
    student: str | None,
    teacher: str | None,
    steps: int | None,
    guidance: float | None,
    device: str,
    wishes: Wishes | None = None,
    prompts: Sequence[Raw] = (),
    download: bool | None = False,
    pipeline: str | None = None,
) -> Subject:
    """What was asked for, dressed as wished. Raises UserError for contradictory wishes.

    prompts: what a student that is not named had better read. download: whether a published one may be fetched; None:
    ask on a terminal.
    """
    named = [flag for flag, ref in (("--student", student), ("--teacher", teacher), ("--pipeline", pipeline)) if ref]
    if len(named) > 1:
        raise UserError(f"{' and '.join(named)} exclude each other: one subject at a time")
    more = wishes or Wishes(steps=steps)
    if pipeline is not None:
        from dmd2cli.cli.piped import piped

        return piped(pipeline, replace(more, steps=steps, guidance=guidance), device, download)
    if student is None and teacher is None:
        student = default(prompts, steps, download)
    if student is None:
        assert teacher is not None, "one of the two"
        found, source = _teacher(teacher, guidance, device, more)
    else:
        found, source = _student(student, steps, guidance, device, more, download)
    if wishes is None:
        return found
    source = dressed(source, wishes)
    network = source.identity()                            # of the weights before they are cast
    return replace(found, source=cast(source, wishes), network=network)


def _student(
    ref: str, steps: int | None, guidance: float | None, device: str, wishes: Wishes, download: bool | None
) -> tuple[Subject, Source]:
    from dmd2cli.engine import runtime
    from dmd2cli.student import load_student

    found = of_student(load_student(ref, runtime.device(device), download), wishes)
    if guidance is not None:
        try:
            found = found.at_guidance(guidance)
        except UserError as err:
            raise UserError(f"--{err}") from err
    trained = len(found.times)
    if steps is not None and steps != trained:
        found = found.at_steps(steps)
        print(f"warning: a {trained}-step student, drawn in {steps} with respaced times", file=sys.stderr)
    behind = json.dumps([found.contract[key] for key in ("teacher", "teacher_sampler", "guidance")], sort_keys=True)
    return Subject(ref, found.source, found.teacher, found.contract["metrics"], behind=behind), found.source


def _teacher(recipe: str, guidance: float | None, device: str, wishes: Wishes) -> tuple[Subject, Source]:
    from dmd2cli.engine import build, runtime
    from dmd2cli.recipe import load
    from dmd2cli.recipe_build import check

    found = load(recipe, overrides(load(recipe).teacher.use, wishes))
    check(found)
    source = build.teacher_source(found, runtime.device(device))
    if guidance not in (None, 1.0) and not source.teacher.encode([])[0]:
        raise UserError(f"--guidance {guidance:g}: this teacher is unconditional; leave --guidance out")
    source = source if guidance is None else replace(source, guidance=guidance)
    metrics = [{"use": m.use, **m.options} for m in found.metrics]
    return Subject(recipe, source, metrics=metrics, kind="teacher"), source


def metrics_of(metric: str, asked: Subject) -> list[tuple[str, dict[str, Any]]]:
    """(name, options) of one metric, or for "all" of those in the subject's recipe. UserError if there are none."""
    if metric != "all":
        return [(metric, {})]
    found = [(m["use"], {k: v for k, v in m.items() if k != "use"}) for m in asked.metrics]
    if not found:
        why = "has no recipe" if asked.kind == "pipeline" else "its recipe names no metrics"
        raise UserError(f"{asked.name}: {why}; name one, such as dmd2 eval fd-digits")
    return found


def pick_labels(given: str | None, conditions: list[int | str | None]) -> list[int | str | None]:
    """The labels of "0,1,2" or of nothing. Raises UserError for text that is no label, or one there is not."""
    if given is None:
        return []
    try:
        labels: list[int | str | None] = [int(part) for part in given.split(",")]
    except ValueError:
        raise UserError(f"--labels {given}: labels are whole numbers with commas between, such as 0,1,2") from None
    if not conditions:
        raise UserError(f"--labels {given}: this student is not conditional on classes; leave --labels out")
    wrong = [label for label in labels if label not in conditions]
    if wrong:
        raise UserError(f"--labels: no class {wrong[0]}; there are {conditions[0]} to {conditions[-1]}")
    return labels


def count(n: int | None, default: int) -> int:
    """-n if it was given. Raises UserError unless it is at least 1."""
    if n is not None and n < 1:
        raise UserError(f"-n {n}: at least 1 image is needed")
    return default if n is None else n


def writable(path: Path | None) -> None:
    """Raise UserError before the work if its result could not be written to path."""
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in it")
    draft = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.touch()
        draft.unlink()
    except OSError as err:
        raise UserError(f"{path}: cannot be written ({err.strerror}); choose another place") from err
