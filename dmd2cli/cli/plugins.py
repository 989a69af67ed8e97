"""dmd2 plugins: what is installed, and from where; a new one; whether one keeps its protocol."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from dmd2cli.cli import plugins_check, plugins_new

app = typer.Typer(help="Look at plugins, check them, begin one.", no_args_is_help=True, rich_markup_mode=None)
app.command("new")(plugins_new.new)
app.command("check")(plugins_check.check)


@app.command("list")
def list_plugins(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List teachers, losses, samplers and all other plugins, with the package each comes from."""
    from dataclasses import asdict

    from dmd2cli.cli.table import table
    from dmd2cli.registry import KINDS, describe, problems

    found = [(kind, plugin) for kind in KINDS for plugin in describe(kind)]
    told = [*problems(), *(plugin.problem for _, plugin in found if plugin.problem)]
    for problem in dict.fromkeys(told):
        typer.echo(f"problem: {problem}", err=True)
    if as_json:
        print(json.dumps([{"kind": kind, **asdict(plugin)} for kind, plugin in found], indent=2))
        return
    rows = [(kind, plugin.name, plugin.distribution, plugin.version) for kind, plugin in found]
    print(table(("KIND", "NAME", "PACKAGE", "VERSION"), rows))
