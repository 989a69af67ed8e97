"""Fixtures of the tests of studies."""

import sys

import pytest
import studies

from dmd2cli.cli import app as cli


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
def study(tmp_path):
    """Three prompts, two arms."""
    return studies.study(tmp_path)


@pytest.fixture
def app(study):
    found = studies.server(study)
    yield found.app()
    found.votes.close()
