"""Cells as processes, some at once, within a budget of minutes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dmd2cli.errors import UserError
from tables.table import Cell

SCRIPT = Path(__file__).parent.parent / "ablations.py"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def run(waiting: list[Cell], jobs: int, minutes: float, done: Callable[[Cell, str], None]) -> None:
    """Run cells, `jobs` at once, in order; start none after `minutes`. done: called after each with why it failed.

    When interrupted, asks the running cells to save and waits for them.
    """
    end, running = time.monotonic() + 60 * minutes, dict[Cell, subprocess.Popen[bytes]]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs and time.monotonic() < end:
                running[waiting[0]] = start(waiting[0])
                waiting.pop(0)
            if not running:
                return
            time.sleep(0.1)
            for cell in [cell for cell, process in running.items() if process.poll() is not None]:
                code = running.pop(cell).returncode
                done(cell, "" if code == 0 else f"failed with code {code}: {last_line(log(cell))}")
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def start(cell: Cell) -> subprocess.Popen[bytes]:
    """The process of a cell, in a session of its own: Ctrl-C reaches it once, through us."""
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    with log(cell).open("ab") as file:
        return subprocess.Popen(command(cell), stdout=file, stderr=file, env=ENVIRONMENT, start_new_session=True)


def command(cell: Cell) -> list[str]:
    """What runs one cell."""
    at = ["--cell", cell.row, cell.variant, str(cell.seed), "--out", str(cell.out), "--samples", str(cell.n)]
    return [sys.executable, str(SCRIPT), cell.name, *at, *cell.extra]


def log(cell: Cell) -> Path:
    """What a cell prints."""
    return cell.folder.with_suffix(".log")


def last_line(path: Path) -> str:
    """The last line of a file that is not empty."""
    lines = path.read_text(errors="replace").split("\n") if path.is_file() else []
    return next((line for line in reversed(lines) if line.strip()), "no message")


def make_pairs(cell: Cell) -> None:
    """The noise-image pairs that a cell needs, if they are not there yet. Raises UserError if that fails."""
    folder = cell.pairs
    if folder is None or (folder.parent / f"{folder.name}.done").is_file():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    words = ["pairs", cell.table.recipe, "-o", str(folder), "-n", str(cell.table.pairs), "--device", "cpu"]
    words += cell.teachers
    print(f"dmd2 {' '.join(words)}", file=sys.stderr)
    if code := subprocess.run([sys.executable, "-m", "dmd2cli", *words], env=ENVIRONMENT, check=False).returncode:
        raise UserError(f"{folder}: dmd2 pairs failed with code {code}; its message is above")
    (folder.parent / f"{folder.name}.done").touch()
