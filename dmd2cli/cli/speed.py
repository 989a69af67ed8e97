"""dmd2 eval speed: how long drawing takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def speed(
    subjects: Annotated[list[str] | None, typer.Argument(
        metavar="[SUBJECT]...", help="REF, teacher:RECIPE or pipeline:PATH,steps=4; default: the newest run.",
    )] = None,
    batches: Annotated[str, typer.Option(help="Images at once.")] = "1,4,16",
    repeats: Annotated[int, typer.Option(help="Batches that are timed, after two to warm up.")] = 20,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result to this file.")] = None,
    baselines: Annotated[bool, typer.Option(help="Also time the teachers behind students.")] = True,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps; by default the fastest there is.")] = "auto",
    download: Annotated[bool, typer.Option("--download", help="Fetch a published student that is missing.")] = False,
) -> None:
    """Time whole batches, from conditions to images, students against their teachers. JSON on stdout."""
    import json
    import sys

    from dmd2cli.cli.subject import writable
    from dmd2cli.cli.timing import sizes, table_of, timings
    from dmd2cli.engine.checkpoint import write_json

    writable(json_file)
    found = timings(subjects or [], sizes(batches), repeats, baselines, device, download)
    if json_file is not None:
        write_json(json_file, found)
    print(table_of(found), file=sys.stderr)
    print(json.dumps(found, indent=2))
