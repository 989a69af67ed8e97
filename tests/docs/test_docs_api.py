"""The API pages name what exists, and leave nothing out that they promise."""

import importlib
import re

import pytest
from mdblocks import ROOT

from dmd2cli import registry, testing

PAGES = sorted((ROOT / "docs/api").glob("*.md"))
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
NAMED = re.findall(r"^::: ([\w.]+)$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("name", NAMED)
def test_what_the_api_pages_name_exists_and_says_what_it_is(name):
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, last = name.rpartition(".")
        found = getattr(importlib.import_module(module), last)
    assert found.__doc__


@pytest.mark.parametrize("folder", ["core", "losses", "samplers"])
def test_every_module_that_a_recipe_can_reach_is_there(folder):
    internal = {"__init__", "transfer", "weights", "ode"}         # moves of tensors; shared by those that are there
    modules = {file.stem for file in (ROOT / f"dmd2cli/{folder}").glob("*.py")} - internal
    assert {f"dmd2cli.{folder}.{name}" for name in modules} - set(NAMED) == set()


def test_every_check_of_a_plugin_is_there():
    assert {f"dmd2cli.testing.{name}" for name in testing.__all__} - set(NAMED) == set()


@pytest.mark.parametrize("kind", ["losses", "samplers"])
def test_everything_of_this_package_that_is_registered_is_there(kind):
    found = {registry.load(kind, name).__module__ for name in registry.names(kind)}
    assert {name for name in found if name.startswith("dmd2cli.")} - set(NAMED) == set()
