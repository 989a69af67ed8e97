"""dmd2 export: write a student in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    ref: Annotated[str, typer.Argument(help="Run folder, student folder, file or published name.")],
    form: Annotated[str, typer.Option("--format", help="An exporter by name; see dmd2 plugins list.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write.")],
    download: Annotated[bool, typer.Option("--download", help="Fetch a published student that is missing.")] = False,
    options: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Of the exporter.")] = None,
) -> None:
    """Export a student; the result is loaded back and compared before it counts as done."""
    import json

    from dmd2cli.cli.subject import writable
    from dmd2cli.errors import UserError
    from dmd2cli.recipe import Use
    from dmd2cli.recipe_build import build, check_options
    from dmd2cli.recipe_files import given
    from dmd2cli.student import load_student

    asked = given(options or [])
    use = Use.model_validate({**asked.data, "use": form}, context=asked.places)
    check_options("exporters", use, form, "student", "out")
    if out.is_dir():
        raise UserError(f"-o {out}: is there already; name a new folder, or a file in it")
    writable(out)
    student = load_student(ref, download=download or None)
    found = build("exporters", use, form, student=student, out=out)
    print(json.dumps({"format": form, **found}, indent=2))
