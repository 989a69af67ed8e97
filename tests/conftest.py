"""Fixtures that several test modules share."""

import os
import tempfile
from pathlib import Path

import pytest
from written import GOOD


@pytest.fixture(scope="session", autouse=True)
def cache():
    """Tests leave the cache of the user alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DMD2_CACHE"] = folder
        yield Path(folder)
        del os.environ["DMD2_CACHE"]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a recipe into a fresh working folder; returns its name there."""
    monkeypatch.chdir(tmp_path)

    def write(text=GOOD, name="r.yaml"):
        Path(name).write_text(text, encoding="utf-8")
        return name

    return write
