"""The map from papers to code is whole, and the code cites what the map says of it."""

import ast
import re

import pytest
from mdblocks import ROOT

from dmd2cli.recipe_files import packaged

PAPER = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
NUMBERED = {
    "[DMD]": [*(f"Eq. {n}" for n in range(1, 10)), *(f"Alg. {n}" for n in range(1, 4))],
    "[DMD2]": [f"Eq. {n}" for n in range(1, 5)],
}
"""All that the arXiv versions number."""
TABLES = {"[DMD]": range(1, 7), "[DMD2]": range(1, 5)}


def section(title):
    """What stands under a heading of the page."""
    return re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAPER, re.MULTILINE | re.DOTALL)[1]


def cells(text):
    """Rows of four cells."""
    split = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|")
    return [row for row in split if len(row) == 4]


MAP = [
    (paper, row[0], function, file)
    for paper in NUMBERED
    for row in cells(section(paper))
    for function in re.findall(r"`([\w.]+)`", row[2])
    for file in re.findall(r"`((?:dmd2cli|plugins)/[\w/]+\.py)`", row[3])
]


def docstrings(file, function):
    """Of the file, and of a function or method and its class."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    found, scope = [ast.get_docstring(tree)], tree
    for name in function.split("."):
        scope = next(node for node in scope.body if getattr(node, "name", None) == name)
        found.append(ast.get_docstring(scope))
    return " ".join(filter(None, found))


@pytest.mark.parametrize("paper", NUMBERED)
def test_every_numbered_equation_and_algorithm_is_on_the_map(paper):
    listed = {where for known, where, *_ in MAP if known == paper}
    assert [one for one in NUMBERED[paper] if one not in listed] == []


@pytest.mark.parametrize(
    ("paper", "where", "function", "file"), [row for row in MAP if row[1] in NUMBERED[row[0]]], ids=lambda x: x
)
def test_what_implements_an_equation_cites_it(paper, where, function, file):
    kind, number = where.split()
    cited = re.findall(rf"{re.escape(paper)} {kind} ([\d, and]+)", docstrings(file, function))
    assert number in re.findall(r"\d+", " ".join(cited)), f"{function} of {file} does not cite {paper} {where}"


def test_the_code_cites_no_equation_that_is_not_there():
    known = {f"{paper} {one}" for paper, numbered in NUMBERED.items() for one in numbered}
    files = [*ROOT.glob("dmd2cli/**/*.py"), *ROOT.glob("plugins/**/*.py")]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    cited = set(re.findall(r"\[DMD2?\] (?:Eq|Alg)\. \d+", text))
    assert len(cited) >= 12 and cited - known == set()


def test_every_table_of_the_papers_is_repeated_or_said_to_be_not():
    rows = cells(section("Tables and figures"))
    listed = {row[0]: row[3] for row in rows}
    assert [f"{p} Table {n}" for p, numbers in TABLES.items() for n in numbers if f"{p} Table {n}" not in listed] == []
    assert all(listed.values())


def test_the_recipes_that_the_tables_name_exist():
    rows = cells(section("Tables and figures"))
    named = {name for row in rows for name in re.findall(r"`([a-z]+\d*-?[\w-]*)`", row[2]) if "-" in name}
    assert named and named - set(packaged()) == set()
