"""Files of a report: written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from dmd2cli.errors import UserError


def whole(path: Path, content: bytes) -> None:
    """Write a file beside its place, and move it there. Raises UserError where that cannot be done."""
    draft = path.with_name(f".{path.name}.tmp")
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    except OSError as err:
        draft.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({err.strerror}); choose another place with -o") from err


def check(path: Path) -> None:
    """Raise UserError, before the work, where a report could not be written, or would overwrite something else."""
    if path.suffix.lower() not in (".html", ".htm") and not path.is_dir():
        raise UserError(f"{path}: a report is an .html file; name one with -o")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in it")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; make it, or choose another place with -o")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path}: its folder cannot be written; choose another place with -o")
