"""What the documentation shows is run: commands and Python small, recipes loaded, quotations compared."""

import shutil
import textwrap

import pytest
from mdblocks import PAGES, ROOT, SMALL, blocks, dmd2, in_folder, name, run

from dmd2cli import demo
from dmd2cli.recipe import load
from dmd2cli.recipe_build import check
from dmd2cli.recipe_yaml import parse

RUN = ("bash", "python")
SHOWN = ("text", "yaml", "toml", "json", "bibtex")
BLOCKS = [block for page in PAGES for block in blocks(page)]


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A run of four steps, for pages that speak of a finished one."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        dmd2(["distill", "digits", "-o", "runs/quickstart", "run.steps=4", *SMALL], patch)
    return folder / "runs"


@pytest.fixture
def here(finished, tmp_path, monkeypatch):
    """A fresh working folder with the finished run in it, and a demo that measures little."""
    shutil.copytree(finished, tmp_path / "runs")
    monkeypatch.setattr(demo, "N", 40)
    monkeypatch.setattr(demo, "SEEDS", (1000, 1001))
    monkeypatch.setattr(demo, "CLASSIFIERS", (0, 1))
    return in_folder(tmp_path, monkeypatch)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.name)
def test_a_block_has_a_language_that_is_run_or_only_shown(block):
    assert block.language in RUN + SHOWN, "give the block a language; shell commands are bash"


@pytest.mark.parametrize("page", [p for p in PAGES if any(b.language in RUN for b in blocks(p))], ids=name)
def test_the_commands_and_the_python_of_a_page_run(page, here, monkeypatch):
    namespace = {"__name__": "__main__"}
    for block in blocks(page):
        if (block.language in RUN or block.title) and not block.mark:
            run(block, namespace, monkeypatch)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.mark == "quoted"], ids=lambda b: b.name)
def test_a_quotation_is_verbatim(block):
    source = (ROOT / block.reason).read_text(encoding="utf-8")
    assert any(textwrap.indent(block.text, " " * n) in source for n in (0, 4, 8)), f"{block.reason} reads otherwise now"


YAML = [block for block in BLOCKS if block.language == "yaml" and not (block.mark or block.title)]


@pytest.mark.parametrize("block", YAML, ids=lambda b: b.name)
def test_a_recipe_is_strict_yaml_and_a_whole_one_loads(block, tmp_path):
    keys = parse(block.text, lambda line: f"{block.name}+{line}").data
    if {"teacher", "extends"} & keys.keys():
        file = tmp_path / "shown.yaml"
        file.write_text(block.text, encoding="utf-8")
        for tier in keys.get("tiers", {}):
            check(load(file, [f"tier={tier}"]))
        check(load(file))
