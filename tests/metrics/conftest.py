"""A cache of their own, the command, and folders of small images."""

import json
import sys

import pytest
from pictured import pictures, save

from dmd2cli.cli import app
from dmd2cli.engine import runtime


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """An empty cache; returns its folder."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DMD2_CACHE", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path):
    """60 images of 8 x 8 in a folder."""
    return save(pictures(60), tmp_path / "real")


@pytest.fixture
def dmd2(monkeypatch, capsys):
    """Run `dmd2 ARGS` here; returns (exit code, stdout, stderr)."""
    device = runtime.device
    monkeypatch.setattr(runtime, "device", lambda name: device("cpu" if name == "auto" else name))

    def run(*args):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["dmd2", *map(str, args)])
        code = 0
        try:
            app.main()
        except SystemExit as stop:
            code = stop.code or 0
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def measured(dmd2):
    def measured(*args):
        code, out, err = dmd2("eval", *args)
        assert code == 0, err
        return json.loads(out)

    return measured


@pytest.fixture
def refused(dmd2):
    def refused(*args):
        code, out, err = dmd2("eval", *args)
        assert code == 2 and out == "" and err.startswith("dmd2: error: ") and err.count("\n") == 1, (code, out, err)
        return err.removeprefix("dmd2: error: ").strip()

    return refused
