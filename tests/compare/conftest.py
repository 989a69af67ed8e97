"""The command, pipelines that are made once, and a run of digits."""

import sys
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from io import StringIO
from typing import NamedTuple

import pytest
import rivals
import tiny_pipelines as tiny
from tiny_students import stirred

from dmd2cli import registry
from dmd2cli.cli import app
from dmd2cli.engine import runtime
from dmd2cli.samplers.few_step import FewStep
from dmd2cli.student import contract, save_student

device = runtime.device
METRICS = [{"use": "fd-digits"}]
MADE = {"sd15": tiny.sd15, "sdxl": tiny.sdxl, "flux": tiny.flux, "pixart": tiny.pixart, "lcm": rivals.lcm,
        "dit": rivals.dit, "ddpm": rivals.ddpm}                                                     # fmt: skip


class Done(NamedTuple):
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def pipe(tmp_path_factory):
    """Name -> folder of a tiny pipeline."""
    return tiny.folders(MADE, tmp_path_factory)


def run(*args):
    """`dmd2 ARGS` on the CPU."""
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["dmd2", *map(str, args)])
        patch.setattr(runtime, "device", lambda name: device("cpu" if name == "auto" else name))
        try:
            app.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def dmd2():
    return run


@pytest.fixture(scope="session")
def ok():
    """Run a command that must work."""

    def ok(*args):
        done = run(*args)
        assert done.code == 0, done
        return done

    return ok


@pytest.fixture(scope="session")
def refused():
    """Run a command that must fail as bad input; returns its one line."""

    def refused(*args):
        done = run(*args)
        assert done.code == 2 and done.out == "", done
        assert done.err.startswith("dmd2: error: ") and done.err.count("\n") == 1, done.err
        return done.err.removeprefix("dmd2: error: ").strip()

    return refused


@pytest.fixture(scope="session")
def students(tmp_path_factory):
    """Two one-step students of the digits, a and b, whose weights differ."""
    folder, teacher = tmp_path_factory.mktemp("runs"), registry.load("teachers", "digits")()
    named = {"teacher": {"use": "digits"}, "teacher_sampler": {"use": "heun", "steps": 4}, "metrics": METRICS}
    for seed, name in enumerate("ab"):
        network = stirred(deepcopy(teacher.denoiser), 0.01, seed)
        said = contract(teacher, named, FewStep((1.0,)), 1.0, {"steps": 3, "weights": "raw"})
        save_student(folder / name / "student", network, said)
    return folder
