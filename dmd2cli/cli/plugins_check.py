"""dmd2 plugins check: does a plugin keep its protocol, check by check, in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dmd2cli.recipe_parts import Use
    from dmd2cli.registry import Plugin
    from dmd2cli.testing.outcome import Outcome

WITH_TEACHER = ("losses", "datasets", "metrics", "extractors", "rewards", "exporters")
"""Kinds that are checked on what a teacher draws or knows."""
MARKS = {True: "ok  ", False: "FAIL", None: "-   "}


def check(
    name: Annotated[str, typer.Argument(help="A plugin, or a package: all that it registers.")],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Options of the plugin.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Of several plugins of that name, those of this kind.")] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Check it with this teacher: NAME, or NAME:key=value:...")
    ] = None,
    student: Annotated[str | None, typer.Option(help="Of an exporter: write this student. See dmd2 sample.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run the conformance suite on a plugin, and say in words what is wrong with it."""
    from dmd2cli.cli.plugins_new import kind_of
    from dmd2cli.testing.registered import chosen

    found = chosen(name, None if kind is None else kind_of(kind, "--kind"))
    if options and len(found) > 1:
        from dmd2cli.errors import UserError

        raise UserError(f"{options[0]}: options of which of the {len(found)} plugins of {name}? choose with --kind")
    results = [one(k, plugin, options or [], teacher, student, as_json) for k, plugin in found]
    if as_json:
        print(json.dumps([facts for facts, _ in results], indent=2))
    helps = teacher is None and any(facts["kind"] in WITH_TEACHER and not facts["passed"] for facts, _ in results)
    conclude(name, [outcome for _, outcomes in results for outcome in outcomes], as_json, helps)


def one(
    kind: str, plugin: Plugin, options: Sequence[str], teacher: str | None, student: str | None, quiet: bool
) -> tuple[dict[str, Any], list[Outcome]]:
    """Check one plugin, and print each outcome as it is known. Returns what --json prints, and the outcomes."""
    from dmd2cli.recipe_parts import Use
    from dmd2cli.registry import KINDS
    from dmd2cli.testing.registered import examine
    from dmd2cli.testing.subjects import Asked

    if not quiet:
        print(f"{KINDS[kind]} {plugin.name} ({plugin.distribution} {plugin.version})")
    beside = None if teacher is None else use_of(teacher)
    asked = Asked(kind, Use(use=plugin.name, **given(options)), beside, student)
    found = list[Any]()
    for outcome in examine(kind, plugin, asked):
        found.append(outcome)
        if not quiet:
            print(f"  {MARKS[outcome.ok]}  {outcome.check:<14}  {outcome.says}", flush=True)
    checks = [{"check": o.check, "ok": o.ok, "says": o.says, "seconds": round(o.seconds, 3)} for o in found]
    facts = {"kind": kind, "name": plugin.name, "distribution": plugin.distribution, "version": plugin.version}
    return {**facts, "target": plugin.target, "passed": all(o.ok for o in found), "checks": checks}, found


def conclude(name: str, found: Sequence[Outcome], quiet: bool, helps: bool) -> None:
    """Say how many passed. Raises UserError if not all did. helps: whether another teacher might."""
    from dmd2cli.errors import UserError

    wrong = [outcome for outcome in found if outcome.ok is False]
    if not wrong:
        if not quiet:
            print(f"{len(found)} checks passed in {sum(outcome.seconds for outcome in found):.1f} s")
        return
    hint = "; --teacher NAME checks it with the images and conditions of another teacher" if helps else ""
    first = f"the first is {wrong[0].check}: {wrong[0].says}"
    raise UserError(f"{name}: {len(wrong)} of {len(found)} checks failed; {first}{hint}") from wrong[0].error


def use_of(text: str) -> Use:
    """NAME or NAME:key=value:key=value. Raises UserError for other text."""
    import re

    from dmd2cli.errors import UserError
    from dmd2cli.recipe_parts import Use

    name, *pairs = re.split(r"[:,](?=\w+=)", text)
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"--teacher {text}: expected NAME or NAME:key=value:..., such as gmm:classes=2")
    return Use(use=name, **given(pairs))


def given(options: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE as options, values as in a recipe. Raises UserError for anything else."""
    from dmd2cli.recipe_files import given

    return dict(given(options).data)
