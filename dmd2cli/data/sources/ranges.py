"""Pieces of files, read by any thread of any process."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import IO

OPEN = 32
"""Files that a thread keeps open."""


class Ranges:
    """Reads pieces of files through handles of the thread's own.

    Threads that share a handle would move its position under each other; so would processes after a fork. Pickles
    without the handles.
    """

    def __init__(self) -> None:
        self._own = threading.local()

    def read(self, path: str, offset: int, size: int) -> bytes:
        """At most size bytes from an offset: fewer where the file ends. Raises OSError."""
        file = self._file(path)
        file.seek(offset)
        return file.read(size)

    def _file(self, path: str) -> IO[bytes]:
        if getattr(self._own, "process", None) != os.getpid():
            self._own.process, self._own.files = os.getpid(), OrderedDict()
        files: OrderedDict[str, IO[bytes]] = self._own.files
        if path not in files:
            files[path] = open(path, "rb")         # noqa: SIM115  kept for the next read
        files.move_to_end(path)
        while len(files) > OPEN:
            files.popitem(last=False)[1].close()
        return files[path]

    def __reduce__(self) -> tuple[type[Ranges], tuple[()]]:
        return Ranges, ()
