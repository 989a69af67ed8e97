"""dmd2 demo: the main job, whole, on real data, in minutes on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder.")] = Path("runs/quickstart"),
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Fields to change.")] = None,
) -> None:
    """Distil the handwritten-digits teacher into one step, measure both, draw both. What `make quickstart` does."""
    from dmd2cli.demo import demo as run

    run(out, overrides or [])
