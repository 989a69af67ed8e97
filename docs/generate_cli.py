"""Writes docs/cli.md from the commands themselves: python docs/generate_cli.py. A test keeps it up to date."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import typer
from typer.models import ArgumentInfo, OptionInfo

from dmd2cli.cli.app import app

TARGET = Path(__file__).with_name("cli.md")

HEAD = """\
# Commands

This page is written by `docs/generate_cli.py` from the commands themselves. `dmd2 COMMAND --help` shows the same.

Results go to standard output, progress and warnings to standard error. `NO_COLOR` is honoured.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | an error of this program; run again with `--debug` and report it |
| 2 | bad input, or a machine that cannot do what was asked; one line says what and what to do |
| 3 | the run diverged (a number was not finite) and was stopped; the last checkpoint is intact |
| 130 | interrupted; a training run saves its state first |

Options of `dmd2` itself: `--version` prints the version, `--debug` (also after a command) shows tracebacks,
`--install-completion` and `--show-completion` set up completion for your shell.

`KEY=VALUE` arguments change fields of the recipe: see [Recipes](recipes.md#overrides).
"""

WORDS = {str: "text", int: "integer", float: "number", Path: "path"}


def commands(group: typer.Typer, prefix: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """(full name, function) of every command, in the order of `dmd2 --help`, groups last."""
    for command in group.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.replace("_", "-")
        yield prefix if name.isupper() else f"{prefix} {name}", command.callback         # METRIC: the first argument
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from commands(inner.typer_instance, f"{prefix} {inner.name}")


def section(name: str, function: Callable[..., Any]) -> str:
    """One command: usage, what it does, a table of its arguments and options."""
    parameters = [described(p) for p in inspect.signature(function, eval_str=True).parameters.values()]
    arguments = " ".join(p[0] for p in parameters if not p[0].startswith("-"))
    cells = ((shown.replace("|", "or"), *rest) for shown, *rest in parameters)           # a bar ends a cell
    rows = "".join(f"| `{shown}` | {kind} | {default} | {about} |\n" for shown, kind, default, about in cells)
    usage = f"dmd2 {name.removeprefix('dmd2 ')} {arguments} [OPTIONS]".replace("  ", " ")
    table = f"| argument or option | type | default | meaning |\n|---|---|---|---|\n{rows}"
    return f"## {name}\n\n```text\n{usage}\n```\n\n{inspect.getdoc(function)}\n\n{table}"


def described(parameter: inspect.Parameter) -> tuple[str, str, str, str]:
    """(as written on the command line, type, default, help) of one parameter."""
    annotation, info = get_args(parameter.annotation)[:2]
    required, default = parameter.default is parameter.empty, parameter.default
    about = (info.help or "").replace("|", "\\|")
    if isinstance(info, ArgumentInfo):
        name = info.metavar or (parameter.name.upper() if required else f"[{parameter.name.upper()}]")
        return name, kind(annotation), "required" if required else "", about
    assert isinstance(info, OptionInfo)
    is_switch = bool in (annotation, *get_args(annotation))
    shown = ", ".join(spelling.replace("/", " / ") for spelling in spellings(parameter.name, info, is_switch))
    if is_switch:
        return shown, "switch", {True: "on", False: "off", None: "see text"}[default], about
    return shown, kind(annotation), "required" if required else "" if default is None else f"`{default}`", about


def spellings(name: str, info: OptionInfo, is_switch: bool) -> list[str]:
    """How an option is written: as declared, else from its parameter's name. Typer keeps the first in `default`."""
    declared = [d for d in (info.default, *(info.param_decls or ())) if isinstance(d, str)]
    flag = name.replace("_", "-")
    return declared or [f"--{flag}/--no-{flag}" if is_switch else f"--{flag}"]


def kind(annotation: Any) -> str:
    """The word for a type."""
    if annotation in WORDS:
        return WORDS[annotation]
    if get_origin(annotation) is list:
        return f"{kind(get_args(annotation)[0])}, any number"
    return next(kind(a) for a in get_args(annotation) if a is not type(None))


def page() -> str:
    """The whole of docs/cli.md."""
    return "\n".join([HEAD, *(section(name, function) for name, function in commands(app, "dmd2"))])


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
    print(TARGET)
