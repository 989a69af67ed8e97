"""How long a run took: what its TensorBoard files have logged, or else when its files were written."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

TAIL = 1 << 16
"""Bytes at the end of a file in which its last record is looked for."""


@dataclass(frozen=True)
class Taken:
    """Seconds of training, pauses between processes left out where they are known."""

    seconds: float
    source: str
    """Where that is from, in words."""


def taken(folder: Path) -> Taken | None:
    """Of a run folder; None where nothing tells."""
    spans = [span for path in sorted((folder / "tb").glob("events.out.tfevents.*")) if (span := logged(path))]
    if spans:
        return Taken(sum(spans), "from the times in its TensorBoard files")
    first, last = folder / "run.json", folder / "metrics.jsonl"
    if not (first.is_file() and last.is_file()):
        return None
    seconds = last.stat().st_mtime - first.stat().st_mtime
    return Taken(seconds, "from when run.json and metrics.jsonl were last written") if seconds > 0 else None


def logged(path: Path) -> float | None:
    """Seconds from the first to the last event of a file; None if it is cut, or holds one alone.

    TFRecord: length u64, its checksum u32, the event, its checksum u32. An event begins with its time: tag 9, f64.
    """
    with path.open("rb") as file:
        head = file.read(12 + 9)
        file.seek(max(0, file.seek(0, 2) - TAIL))
        tail = file.read()
    sizes = range(9, len(tail) - 15)
    last = next((n for n in sizes if struct.unpack_from("<Q", tail, len(tail) - 16 - n)[0] == n), None)
    if last is None or len(head) < 21 or head[12] != 9:
        return None
    event = tail[len(tail) - 4 - last :]
    seconds = struct.unpack_from("<d", event, 1)[0] - struct.unpack_from("<d", head, 13)[0]
    return seconds if event[0] == 9 and 0 < seconds < 1e9 else None
