"""dmd2 export: write a student in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    ref: Annotated[str, typer.Argument(help="Run folder, student folder or file.")],
    form: Annotated[str, typer.Option("--format", help="An exporter by name; see dmd2 plugins list.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write.")],
) -> None:
    """Export a student; the result is loaded back and compared before it counts as done."""
    import json

    from dmd2cli.cli.subject import writable
    from dmd2cli.registry import load
    from dmd2cli.student import load_student

    exporter = load("exporters", form)
    student = load_student(ref)
    writable(out)
    print(json.dumps({"format": form, **exporter(student, out)}, indent=2))
