"""Fixtures that several test modules share."""

import os
import sys
import tempfile
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"     # read when torch is imported: threads that wait for others cost all of a core

import pytest
import torch
from written import GOOD

from dmd2cli.cli import app as cli


def pytest_configure(config):
    """Make warnings that the tests and their helpers cause errors; those of the packages are, by pyproject.toml."""
    names = sorted({path.stem for path in Path(__file__).parent.rglob("*.py")})
    config.getini("filterwarnings").insert(0, rf"error:::({'|'.join(names)})\Z")     # before what is ignored


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give each worker one stretch of the tests, so that what a module or a folder shares is built once."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.option.dist == "load" else None


@pytest.fixture(scope="session", autouse=True)
def cache():
    """Tests leave the cache of the user alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DMD2_CACHE"] = folder
        yield Path(folder)
        del os.environ["DMD2_CACHE"]


@pytest.fixture(scope="session", autouse=True)
def quiet_about_torch():
    """Commands say nothing of the installed torch: tests that count lines pass with every one."""
    from dmd2cli.installation import tested

    tested._mentioned = True


@pytest.fixture(scope="session")
def filled(tmp_path_factory):
    """A hub cache with small stand-ins of the published students and their base."""
    import published_students

    folder = tmp_path_factory.mktemp("filled")
    published_students.stand_ins(folder / "hub", folder / "scratch")
    return folder / "hub"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a recipe into a fresh working folder; returns its name there."""
    monkeypatch.chdir(tmp_path)

    def write(text=GOOD, name="r.yaml"):
        Path(name).write_text(text, encoding="utf-8")
        return name

    return write


@pytest.fixture
def graphs(monkeypatch):
    """Graphs that torch.compile was asked for; they are run as they are."""
    found = []

    def backend(graph, inputs):
        found.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    yield found
    torch._dynamo.reset()


@pytest.fixture
def dmd2(monkeypatch, capfd):
    """Run the command in this process; returns (exit code, stdout, stderr)."""

    def dmd2(*args):
        capfd.readouterr()                                     # what fixtures have printed
        monkeypatch.setattr(sys, "argv", ["dmd2", *map(str, args)])
        try:
            cli.main()
        except SystemExit as stop:
            return stop.code or 0, *capfd.readouterr()
        return 0, *capfd.readouterr()

    return dmd2


@pytest.fixture
def one_thread():
    """PyTorch computes with one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
