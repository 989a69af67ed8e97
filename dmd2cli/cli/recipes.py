"""dmd2 recipes: the recipes that came with the installation, and what a recipe says in full."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from dmd2cli.cli.recipes_new import new

app = typer.Typer(help="List, show, explain, copy and write recipes.", no_args_is_help=True, rich_markup_mode=None)
app.command()(new)


@app.command("list")
def list_recipes(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the packaged recipes, each with its first comment line; without --json the presets too."""
    from dmd2cli.cli.table import table
    from dmd2cli.recipe_files import packaged, presets

    found = _about(packaged())
    if as_json:
        print(json.dumps([{"name": name, "about": about} for name, about in found], indent=2))
    else:
        print(table(("NAME", "ABOUT"), found), table(("PRESET", "ABOUT"), _about(presets())), sep="\n\n")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A packaged recipe, or a file.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
) -> None:
    """Print a recipe as a run would see it: parents, tiers and overrides applied, defaults written out."""
    from dmd2cli.recipe import dump, load_any

    print(dump(load_any(name, overrides or [])), end="")


@app.command()
def explain(
    recipe: Annotated[str, typer.Argument(help="A packaged recipe, or a file.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print every value of a recipe: where it was written, the comment beside it, what the DMD2 release has instead."""
    from dmd2cli.cli.table import table
    from dmd2cli.recipe_explain import COLUMNS, cells, explained

    found = explained(recipe, overrides or [])
    if as_json:
        print(json.dumps(found, indent=2))
        return
    header = [name.upper() for name in COLUMNS]
    print(table(header, [cells(row) for row in found["rows"]]))
    for stage in found["stages"]:
        changes = table(header, [cells(row) for row in stage["rows"]]) if stage["rows"] else "no change"
        print(f"\nstage {stage['stage']}, steps {stage['first']} to {stage['until']}:\n{changes}")


@app.command()
def copy(
    name: Annotated[str, typer.Argument(help="A packaged recipe, or a file.")],
    dest: Annotated[Path | None, typer.Argument(help="File or folder; by default this folder.")] = None,
) -> None:
    """Copy a recipe as it was written, comments included, to edit it. Nothing is overwritten."""
    from dmd2cli.errors import UserError
    from dmd2cli.recipe_files import find

    source = find(name)
    target = dest or Path()
    target = target / source.name if target.is_dir() else target
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8"))
    except FileExistsError:
        raise UserError(f"{target}: exists already; name another file, or remove it") from None
    print(target)


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors that complete and check YAML."""
    from dmd2cli.recipe import schema

    print(json.dumps(schema(), indent=2))


def _about(found: Mapping[str, Path]) -> list[tuple[str, str]]:
    """Names and first comments."""
    return [(name, _first_comment(path)) for name, path in found.items()]


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""
