"""dmd2 plugins new: begin a plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def new(
    name: Annotated[str, typer.Argument(help="What pip installs and recipes say, such as my-teacher.")],
    kind: Annotated[
        list[str], typer.Option(help="teacher, loss, sampler, dataset, metric, exporter or reward; may be repeated.")
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A new or empty folder; default: NAME.")] = None,
) -> None:
    """Write a package with a small plugin of each kind, which installs and passes its tests as it is."""
    import shlex

    from dmd2cli.errors import UserError, suggest
    from dmd2cli.scaffold import named, scaffold
    from dmd2cli.scaffold.kinds import KINDS

    kinds = list(dict.fromkeys(kind))
    for one in kinds:
        if one not in KINDS:
            raise UserError(f"--kind {one}: cannot be begun{suggest(one, KINDS)}")
    names = named(name, kinds)
    folder = out or Path(names.distribution)
    for path in scaffold(names, kinds, folder):
        print(path)
    print(f"\nnext: pip install -e {shlex.quote(str(folder))} && dmd2 plugins check {names.distribution}")


def kind_of(text: str, flag: str) -> str:
    """The group of a kind that is written as teacher or teachers. Raises UserError for another word."""
    from dmd2cli.errors import UserError, suggest
    from dmd2cli.registry import KINDS

    groups = {**{single: group for group, single in KINDS.items()}, **{group: group for group in KINDS}}
    if text not in groups:
        raise UserError(f"{flag} {text}: no kind of plugin{suggest(text, KINDS.values())}")
    return groups[text]
