"""The command as a person runs it, in this process: imports are paid once for all tests."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import NamedTuple

import pytest

from dmd2cli.cli import app
from dmd2cli.engine import runtime

device = runtime.device


class Done(NamedTuple):
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


def run(*args):
    """`dmd2 ARGS` on the CPU; the rest is as from a shell."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["dmd2", *map(str, args)])
        patch.setattr(runtime, "device", lambda name: device("cpu" if name == "auto" else name))
        try:
            app.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    return Done(code, out.getvalue(), err.getvalue())
