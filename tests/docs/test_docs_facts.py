"""Tables of the documentation against the code: equations, fields, commands, recipes."""

import ast
import importlib.util
import re
from dataclasses import fields

import pytest
from mdblocks import PAGES, ROOT, name

from dmd2cli import registry
from dmd2cli.engine.run import FREE
from dmd2cli.recipe_files import packaged
from dmd2cli.recipe_parts import Critic, Data, PretrainRecipe, Recipe, Run, Student

PAPER = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
MAP = [
    (row[0], function, file)
    for line in PAPER.splitlines()
    if line.startswith("|") and (row := [cell.strip() for cell in line.strip("|").split("|")]) and len(row) == 4
    for function in re.findall(r"`([\w.]+)`", row[2])
    for file in re.findall(r"`(dmd2cli/[\w/]+\.py)`", row[3])
]


def defined(file):
    """Public functions and classes of a file, and their methods as Class.method."""
    found = set()
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def rows(text):
    """What stands in backquotes in the first cells of all table rows."""
    first = (line.split("|")[1] for line in text.splitlines() if line.startswith("|"))
    return {cell for text in first for cell in re.findall(r"`([^`]+)`", text)}


@pytest.mark.parametrize(("where", "function", "file"), MAP, ids=lambda x: x)
def test_the_paper_map_names_what_exists(where, function, file):
    assert function in defined(file)


def test_the_paper_map_is_read_at_all():
    assert len(MAP) >= 40
    numbers = [f"Eq. {n}" for n in range(1, 10)]
    assert [n for n in numbers if n in PAPER.partition("## [DMD2]")[0]] == numbers


@pytest.mark.parametrize("file", ["dmd2cli/core/objective.py", "dmd2cli/core/weighting.py"])
def test_no_equation_of_a_file_is_missing_from_the_paper_map(file):
    functions = {f for f in defined(file) if "." not in f}
    assert functions - {function for _, function, where in MAP if where == file} == set()


def test_the_page_of_commands_is_up_to_date():
    spec = importlib.util.spec_from_file_location("generate_cli", ROOT / "docs/generate_cli.py")
    generate_cli = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate_cli)
    assert generate_cli.TARGET.read_text(encoding="utf-8") == generate_cli.page(), "run python docs/generate_cli.py"


@pytest.mark.parametrize("part", [Recipe, PretrainRecipe, Student, Critic, Data, Run])
def test_every_field_of_a_recipe_is_described(part):
    assert set(part.model_fields) - rows((ROOT / "docs/recipes.md").read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize("loss", registry.names("losses"))
def test_every_option_of_a_loss_is_described(loss):
    options = {field.name for field in fields(registry.load("losses", loss))}
    assert options - set(re.findall(r"`(\w+)`", (ROOT / "docs/recipes.md").read_text(encoding="utf-8"))) == set()


def test_every_key_that_may_change_on_resume_is_listed():
    assert {f"run.{key}" for key in FREE} - rows((ROOT / "docs/recipes.md").read_text(encoding="utf-8")) == set()


def test_every_field_of_the_student_contract_is_described():
    from dmd2cli.student import contract

    teacher = registry.load("teachers", "digits")()
    found = contract(teacher, {"teacher": {}, "teacher_sampler": {}}, [1.0], 1.0, {})
    assert set(found) - rows((ROOT / "docs/formats.md").read_text(encoding="utf-8")) == set()


def test_every_packaged_recipe_has_its_provenance():
    assert set(packaged()) == rows((ROOT / "recipes/README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_between_pages_resolve(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [target for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in target]
    assert [target for target in links if not (page.parent / target).exists()] == []
