"""What `dmd2 sample` draws with when nothing is named: the newest run, or a published student for prompts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dmd2cli.errors import UserError

if TYPE_CHECKING:
    from dmd2cli.protocols import Raw

ONE, FEW = "sdxl-1step", "sdxl-4step"
"""Published students for --steps 1, and for any other number."""


def default(prompts: Sequence[Raw], steps: int | None, download: bool | None = False) -> str:
    """The reference of a student, told on stderr with the reason.

    download: whether a published one may be fetched; None: ask on a terminal. Raises UserError if there is none, or it
    is not there and may not be fetched.
    """
    from dmd2cli import published
    from dmd2cli.student import find, newest, read_contract, reads_prompts

    try:
        run: Path | None = newest()
    except UserError:
        if not prompts:
            raise
        run = None
    if run is not None and (not prompts or reads_prompts(read_contract(find(run)))):
        print(f"no subject given: the newest run is {run}", file=sys.stderr)
        return str(run)
    name = ONE if steps == 1 else FEW
    why = "there is no run under ./runs" if run is None else f"{run}, the newest run, reads no prompts"
    published.ensure(name, download)
    print(f"no subject given: {why}, so it is the published {name}", file=sys.stderr)
    return name
