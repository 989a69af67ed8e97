"""What the tests of third-party plugins share."""

import sys

import pytest


@pytest.fixture(autouse=True)
def quick(one_thread):
    """Toy networks are quickest on one, and other workers have the rest."""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed distributions, first on sys.path; what is imported meanwhile is forgotten afterwards."""
    before, path = set(sys.modules), list(sys.path)
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.path[:] = path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]
