"""Fixtures that several test modules share."""

import os
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest
import torch
from written import GOOD

from dmd2cli.cli import app as cli


@pytest.fixture(scope="session", autouse=True)
def cache():
    """Tests leave the cache of the user alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DMD2_CACHE"] = folder
        yield Path(folder)
        del os.environ["DMD2_CACHE"]


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
