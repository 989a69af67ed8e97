"""One process per run folder: two would each throw away what the other has half written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dmd2cli.errors import UserError

try:
    import fcntl
except ImportError:                                        # Windows: no lock
    fcntl = None  # type: ignore[assignment]


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder, which is there, until the end of the block or of the process. Raises UserError if it is taken.

    The lock is on the folder itself and leaves nothing behind. File systems that have none are trusted.
    """
    if fcntl is None:
        yield
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process trains there; wait for it, or choose another -o") from None
        except OSError:                                    # this file system has no locks
            pass
        yield
    finally:
        os.close(number)
