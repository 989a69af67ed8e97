"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dmd2cli.errors import UserError


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """A neighbour of out to write into, which takes its name at the end. UserError if there is something already."""
    if out.exists() or out.is_symlink():
        raise UserError(f"{out}: is there already; name a new folder, or remove that one")
    draft = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        yield draft
        os.replace(draft, out)
    except OSError as err:
        raise UserError(f"{out}: cannot be written ({err.strerror or err}); choose another place") from err
    finally:
        shutil.rmtree(draft, ignore_errors=True)
