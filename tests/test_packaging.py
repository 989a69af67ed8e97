"""What goes into the wheel: every entry point leads somewhere, the data is there, and it stays small."""

import importlib
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ENTRIES = [(group, *entry) for group, names in PROJECT["project"]["entry-points"].items() for entry in names.items()]
SHIPPED = sorted(p for folder in ("dmd2cli", "plugins", "recipes") for p in (ROOT / folder).rglob("*.safetensors"))


@pytest.mark.parametrize(("group", "name", "target"), ENTRIES, ids=lambda value: value.rpartition(".")[2])
def test_an_entry_point_leads_to_something_that_can_be_called(group, name, target):
    module, _, attribute = target.partition(" ")[0].partition(":")
    assert callable(getattr(importlib.import_module(module), attribute)), (group, name)


def test_the_command_is_dmd2():
    assert PROJECT["project"]["scripts"] == {"dmd2": "dmd2cli.cli.app:main"}


def test_the_installed_entry_points_are_those_of_the_project():
    from dmd2cli import registry

    for group in PROJECT["project"]["entry-points"]:
        ours = {p.name for p in registry.describe(group.removeprefix("dmd2.")) if p.distribution == "dmd2cli"}
        assert ours == set(PROJECT["project"]["entry-points"][group]), group


@pytest.mark.parametrize(
    "pattern", ["recipes/digits.yaml", "plugins/dmd2_plugins/digits/teacher.safetensors", "dmd2cli/py.typed"]
)
def test_data_files_that_must_be_there_are_covered_by_package_data(pattern):
    path = ROOT / pattern
    globs = PROJECT["tool"]["setuptools"]["package-data"]["*"]
    assert path.is_file() and any(path.match(glob.removeprefix("**/")) for glob in globs)


def test_shipped_weights_are_small_together_and_say_what_made_them():
    from dmd2cli.weights import read_metadata

    assert len(SHIPPED) >= 4 and sum(p.stat().st_size for p in SHIPPED) <= 4 * 2**20
    for path in SHIPPED:
        assert "provenance" in read_metadata(path), path
