"""Write docs/packaged.md from the packaged recipes: python docs/generate_recipes.py. A test keeps it up to date.

Teacher, calls, losses and tiers are those of the recipe as it loads. The rest is from the comment that each file begins
with: its first line, and what stands behind "Hardware:", "Paper:", "Ours:" and "Status:".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from dmd2cli.recipe import load_any
from dmd2cli.recipe_files import find, packaged, read
from dmd2cli.recipe_parts import PretrainRecipe, Recipe
from dmd2cli.recipe_stages import staged

TARGET = Path(__file__).with_name("packaged.md")
HEAD = """\
---
hide: [toc]
---

# The packaged recipes

This page is written by `docs/generate_recipes.py` from the recipes themselves. `dmd2 recipes list` names them,
`dmd2 recipes show NAME` prints one with every default, `dmd2 recipes explain NAME` says where each value is from, and
`dmd2 recipes copy NAME` makes a file of it to edit. How a recipe is written: [Recipes](recipes.md).

*Calls* are those of the student's network for one image. A loss in brackets comes in a later stage. A tier is a
variant, taken by `tier=NAME`. *Paper* is the published result of the settings; *ours* is where this project's own
numbers are, and what was run. "Not run" means that there are no numbers: the tier `cpu-smoke` was run, which says that
the recipe works and nothing of its quality.
"""
FAMILIES = {
    "digits": "Digits",
    "toy": "25 Gaussians in the plane",
    "cifar10": "CIFAR-10",
    "imagenet64": "ImageNet 64",
    "sd": "A Stable Diffusion in small",
    "sd15": "Stable Diffusion 1.5",
    "sdxl": "SDXL",
}
"""First word of a name -> heading."""
COLUMNS = ("recipe", "teacher", "calls", "losses", "hardware", "paper", "ours")
PRETRAINED = ("recipe", "hardware", "ours")
FACTS = {
    "hardware": r"[Hh]ardware: ([^\n.;]+)",
    "paper": r"Papers?(?:'s metric)?: (.+?)(?:[.;](?=\s|$))",       # the point of a number is no end
    "ours": r"[Oo]urs\b[^:.]*: (.+?)(?:[.;](?=\s|$))",
    "status": r"Status: (.+?)\.?$",
}
MADE_ON = re.compile(r"(\d+ (?:A100|GPUs)(?:, (?:\d+ h|two weeks)[^,]*)?), (.+)")


def page() -> str:
    """The whole of docs/packaged.md."""
    tables = [f"## {heading}\n\n{table(COLUMNS, rows(family))}" for family, heading in FAMILIES.items()]
    last = f"## Teachers and feature networks\n\nFor `dmd2 pretrain`.\n\n{table(PRETRAINED, pretrained())}"
    return "\n".join([HEAD, *tables, last])


def rows(family: str) -> Iterator[dict[str, str]]:
    """Of all recipes of a family that distil."""
    for name, file in packaged().items():
        recipe = load_any(name)
        if isinstance(recipe, Recipe) and name.split("-")[0] == family:
            yield facts(name, file) | {
                "teacher": teacher(recipe), "calls": str(len(recipe.student.times)), "losses": losses(recipe),
            }  # fmt: skip


def pretrained() -> Iterator[dict[str, str]]:
    """Of all recipes that train a network from nothing."""
    return (facts(name, file) for name, file in packaged().items() if isinstance(load_any(name), PretrainRecipe))


def facts(name: str, file: Path) -> dict[str, str]:
    """What the comment at the head of a file says."""
    lines = takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    first, *rest = (line.lstrip("# ") for line in lines)
    text = {key: re.search(pattern, "\n".join(rest), re.DOTALL) for key, pattern in FACTS.items()}
    said = {key: " ".join(found[1].split()) for key, found in text.items() if found}
    if made := MADE_ON.fullmatch(said.get("paper", "")):
        said |= {"hardware": f"{made[1]} (paper)", "paper": made[2]}
    variants = ", ".join(f"`{tier}`" for tier in tiers(file))
    about = [f"`{name}`", first.removesuffix("."), *([f"tiers: {variants}"] if variants else [])]
    return {**said, "recipe": "<br>".join(about), "ours": f"{ours(said['ours'])}; {said['status']}"}


def ours(text: str) -> str:
    """A link to the page that has the numbers, or that there are none."""
    page = re.fullmatch(r"docs/([\w-]+\.md)", text)
    return f"[measured]({page[1]})" if page else {"not measured": "not run"}[text]


def teacher(recipe: Recipe) -> str:
    """Its name, and which of its networks."""
    which = recipe.teacher.options.get("preset") or recipe.teacher.options.get("layout")
    return f"`{recipe.teacher.use}`" + (f" ({which})" if which else "")


def losses(recipe: Recipe) -> str:
    """Names of the terms, those of later stages in brackets."""
    stages = [stage.recipe for stage in staged(recipe)]
    first = list(stages[0].losses)
    later = dict.fromkeys(term for stage in stages[1:] for term in stage.losses if term not in first)
    return ", ".join([*(f"`{term}`" for term in first), *(f"(`{term}`)" for term in later)])


def tiers(file: Path) -> list[str]:
    """Names of the variants that a file has, or one that it extends."""
    data = read(file).data
    above = tiers(find(data["extends"], file.parent)) if "extends" in data else []
    return list(dict.fromkeys([*above, *data.get("tiers", {})]))


def table(columns: tuple[str, ...], found: Iterator[dict[str, str]]) -> str:
    """As Markdown."""
    cells = [columns, ["---"] * len(columns), *([row.get(column, "") for column in columns] for row in found)]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
    print(TARGET)
