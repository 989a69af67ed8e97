"""Tables of the documentation against the code: equations, fields, commands, recipes."""

import ast
import importlib.util
import json
import re
from dataclasses import fields

import pytest
from mdblocks import PAGES, ROOT, name

from dmd2cli import registry
from dmd2cli.core.divergence import DIVERGENCES
from dmd2cli.engine.run import FREE
from dmd2cli.recipe_files import packaged, presets
from dmd2cli.recipe_health import Health, Validation
from dmd2cli.recipe_parts import (
    Averaged,
    Critic,
    Data,
    GuidanceRange,
    Head,
    Pairs,
    PretrainRecipe,
    Recipe,
    Run,
    Student,
    Term,
)
from dmd2cli.recipe_stages import FIXED
from dmd2cli.samplers.few_step import FewStep

PAPER = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
MAP = [
    (row[0], function, file)
    for line in PAPER.splitlines()
    if line.startswith("|") and (row := [cell.strip() for cell in line.strip("|").split("|")]) and len(row) == 4
    for function in re.findall(r"`([\w.]+)`", row[2])
    for file in re.findall(r"`((?:dmd2cli|plugins)/[\w/]+\.py)`", row[3])
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


@pytest.mark.parametrize("name", ["objective", "weighting", "divergence", "penalty"])
def test_no_equation_of_a_file_is_missing_from_the_paper_map(name):
    file = f"dmd2cli/core/{name}.py"
    functions = {f for f in defined(file) if "." not in f}
    assert functions - {function for _, function, where in MAP if where == file} == set()


@pytest.mark.parametrize("name", ["generate_cli", "generate_recipes", "generate_results"])
def test_a_page_that_is_generated_is_up_to_date(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.TARGET.read_text(encoding="utf-8") == generate.page(), f"run python docs/{name}.py"


def test_every_committed_result_is_on_the_page_with_its_picture():
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    results = [path.stem for path in (ROOT / "docs/results").glob("*.json")]
    assert results
    for result in results:
        assert result in page
        held = json.loads((ROOT / f"docs/results/{result}.json").read_text(encoding="utf-8"))
        assert "/" not in held.get("command", "").replace("benchmarks/", "")


PARTS = [
    Recipe, PretrainRecipe, Student, GuidanceRange, Critic, Head, Averaged, Term, Data, Pairs, Health, Validation, Run,
]  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_every_field_of_a_recipe_is_described(part):
    described = rows((ROOT / "docs/recipes.md").read_text(encoding="utf-8"))
    assert set(part.model_fields) - described - {"use"} == set()


@pytest.mark.parametrize("loss", registry.names("losses"))
def test_every_option_of_a_loss_is_described(loss):
    options = {field.name for field in fields(registry.load("losses", loss))}
    assert options - set(re.findall(r"`(\w+)`", (ROOT / "docs/recipes.md").read_text(encoding="utf-8"))) == set()


def test_every_preset_and_every_key_that_no_stage_may_have_is_listed():
    text = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    assert set(presets()) - rows(text) == set()
    listed = set(re.findall(r"`([\w.]+)`", next(line for line in text.splitlines() if "must not stand" in line)))
    assert {key.removeprefix("run.") for key in FIXED} == listed - {"run"}


def sections(page):
    """Name in backquotes in a heading of a page -> what stands under it, up to the next heading."""
    text = (ROOT / page).read_text(encoding="utf-8")
    parts = re.split(r"^#+ (.*)$", text, flags=re.MULTILINE)[1:]
    return {name[0]: body for title, body in zip(parts[::2], parts[1::2], strict=True)
            if (name := re.findall(r"^`([\w-]+)`$", title))}  # fmt: skip


PAGE_OF = {"losses": "docs/losses.md", "rewards": "docs/losses.md", "weightings": "docs/weightings.md",
           "samplers": "docs/samplers.md"}  # fmt: skip


@pytest.mark.parametrize("kind", PAGE_OF)
def test_everything_registered_has_a_heading_on_its_page(kind):
    assert set(registry.names(kind)) - sections(PAGE_OF[kind]).keys() == set()


def test_a_heading_in_backquotes_is_a_registered_name():
    known = set(DIVERGENCES) | {name for kind in PAGE_OF for name in registry.names(kind)}
    assert {name for page in PAGE_OF.values() for name in sections(page)} - known == set()


def test_every_divergence_has_a_heading_and_a_row():
    text = (ROOT / "docs/losses.md").read_text(encoding="utf-8")
    assert set(DIVERGENCES) - sections("docs/losses.md").keys() == set()
    assert set(DIVERGENCES) - rows(text) == set()


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in ("losses", "samplers") for n in registry.names(k)])
def test_every_option_has_its_place_in_the_section_of_what_it_belongs_to(kind, name):
    found = set(re.findall(r"`(\w+)`", sections(PAGE_OF[kind])[name]))
    assert {field.name for field in fields(registry.load(kind, name))} - found == set()


def test_every_key_that_may_change_on_resume_is_listed():
    assert {f"run.{key}" for key in FREE} - rows((ROOT / "docs/recipes.md").read_text(encoding="utf-8")) == set()


def test_every_field_of_the_student_contract_is_described():
    from dmd2cli.student import contract

    teacher = registry.load("teachers", "digits")()
    found = contract(teacher, {"teacher": {}, "teacher_sampler": {}, "metrics": []}, FewStep(), 1.0, {})
    assert set(found) - rows((ROOT / "docs/formats.md").read_text(encoding="utf-8")) == set()


def test_every_packaged_recipe_has_its_provenance():
    assert set(packaged()) == rows((ROOT / "recipes/README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_between_pages_resolve(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [target for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in target]
    assert [target for target in links if not (page.parent / target).exists()] == []
