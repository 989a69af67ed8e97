"""The command, pipelines that are made once, and a run of digits."""

from copy import deepcopy

import pytest
import rivals
import tiny_pipelines as tiny
from commands import run
from tiny_students import stirred

from dmd2cli import registry
from dmd2cli.samplers.few_step import FewStep
from dmd2cli.student import contract, save_student

METRICS = [{"use": "fd-digits"}]
MADE = {"sd15": tiny.sd15, "sdxl": tiny.sdxl, "flux": tiny.flux, "pixart": tiny.pixart, "lcm": rivals.lcm,
        "dit": rivals.dit, "ddpm": rivals.ddpm}                                                     # fmt: skip


@pytest.fixture(scope="session")
def pipe(tmp_path_factory):
    """Name -> folder of a tiny pipeline."""
    return tiny.folders(MADE, tmp_path_factory)


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
