"""How a check went: it passed, or what is wrong in one line. A crash is told by where in the plugin it was."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dmd2cli.errors import UserError
from dmd2cli.testing.said import Broken


@dataclass(frozen=True)
class Outcome:
    """ok: None for a check that was not judged. says: what holds, or what is wrong and what to do."""

    check: str
    ok: bool | None
    says: str
    seconds: float = 0.0
    error: BaseException | None = None


def outcome(name: str, promise: str, run: Callable[[], None], module: str) -> Outcome:
    """Run a check of a plugin. module: what its entry point names."""
    started = time.perf_counter()
    try:
        run()
    except (Exception, SystemExit) as err:
        return Outcome(name, False, told(err, module), time.perf_counter() - started, err)
    return Outcome(name, True, promise, time.perf_counter() - started)


def told(err: BaseException, module: str) -> str:
    """What went wrong, in one line: our words for what we looked for, else the error and its place."""
    words = " ".join(str(err).split())
    if isinstance(err, (Broken, UserError)):
        return words
    kind = "calls sys.exit" if isinstance(err, SystemExit) else type(err).__name__
    return f"{kind}{': ' if words else ''}{words[:300]} (at {place(err, module)}; --debug shows the way there)"


def place(err: BaseException, module: str) -> str:
    """FILE:LINE of the last call inside the plugin, or of the last at all."""
    frames = traceback.extract_tb(err.__traceback__)
    if isinstance(err, SyntaxError) and err.filename:
        return f"{shown(err.filename)}:{err.lineno}"
    inside = [frame for frame in frames if belongs(frame.filename, module)]
    last = (inside or list(frames))[-1]
    return f"{shown(last.filename)}:{last.lineno} in {last.name}"


def belongs(file: str, module: str) -> bool:
    """Whether a source file is part of the top-level package of a module."""
    home = getattr(sys.modules.get(module.partition(".")[0]), "__file__", None)
    if home is None:
        return False
    return file.startswith(str(Path(home).parent) + os.sep) if Path(home).name == "__init__.py" else file == home


def shown(file: str) -> str:
    """A path as short as it is clear: relative to the working folder if it is in it."""
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
