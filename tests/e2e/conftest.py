"""The command as a person runs it, in this process, and the smallest runs that are still whole."""

import pytest
from commands import run

TINY = ("digits", "run.steps=6", "run.batch=8", "run.threads=1", "run.save_every=3", "sampler.steps=4")


@pytest.fixture(scope="session")
def dmd2():
    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A finished run of a one-step student."""
    return made(tmp_path_factory.mktemp("tiny") / "one")


@pytest.fixture(scope="session")
def two_step(tmp_path_factory):
    """A finished run of a student of two steps."""
    return made(tmp_path_factory.mktemp("tiny") / "two", "student.times=[1.0, 0.5]")


def made(folder, *overrides):
    done = run("distill", *TINY, *overrides, "-o", folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def refused(dmd2):
    """Run a command that must fail as bad input: exit 2, nothing on stdout, one line on stderr; returns the line."""

    def refused(*args):
        done = dmd2(*args)
        assert done.code == 2 and done.out == "", done
        assert done.err.startswith("dmd2: error: ") and done.err.count("\n") == 1, done.err
        return done.err.removeprefix("dmd2: error: ").strip()

    return refused
