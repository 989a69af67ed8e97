"""The files of a new plugin: rendered from the templates, written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import dmd2cli
from dmd2cli.errors import UserError
from dmd2cli.registry import API
from dmd2cli.scaffold.kinds import BARS, KINDS
from dmd2cli.scaffold.names import Names

DRAFT = ".dmd2-plugins-new.tmp"
"""Where files are until all are there."""


def scaffold(names: Names, kinds: Sequence[str], out: Path) -> list[Path]:
    """Write a distribution of these kinds into `out`, which is empty or not there yet; gives its files.

    Raises UserError if the folder has something in it.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; name a folder for the plugin")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty; name another folder with -o")
    rendered = render(names, kinds)
    fresh = [path for path in (out, *out.parents) if not path.exists()]
    draft = out / DRAFT
    try:
        for name, text in rendered.items():
            file = draft / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        for child in sorted(draft.iterdir()):
            os.replace(child, out / child.name)
        draft.rmdir()
    except OSError:
        clear(draft, fresh)
        raise
    return [out / name for name in rendered]


def clear(draft: Path, fresh: Sequence[Path]) -> None:
    """Take away what was begun: the draft, and the folders that were made for it."""
    shutil.rmtree(draft, ignore_errors=True)
    for folder in fresh:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def render(names: Names, kinds: Sequence[str]) -> dict[str, str]:
    """Path in the distribution -> text, for every file of it."""
    templates = Environment(
        loader=FileSystemLoader(str(files("dmd2cli.scaffold") / "templates")),
        undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True, autoescape=False,
    )  # fmt: skip
    values = {"names": names, "kinds": [KINDS[kind] for kind in kinds], "api": API, "versions": versions()}
    values |= {"has": {kind: kind in kinds for kind in KINDS}}
    return {path: templates.get_template(template).render(values) for path, template in plan(names, kinds).items()}


def plan(names: Names, kinds: Sequence[str]) -> dict[str, str]:
    """Path in the distribution -> its template."""
    source = f"src/{names.module}"
    found = {name: f"{name}.jinja" for name in ("pyproject.toml", "README.md", "LICENSE")}
    found |= {".gitignore": "gitignore.jinja", f"{source}/py.typed": "py.typed.jinja"}
    found[f"{source}/__init__.py"] = "init.py.jinja"
    if set(kinds) & set(BARS):
        found[f"{source}/bars.py"] = "bars.py.jinja"
    if "teacher" in kinds:
        found["recipe.yaml"] = "recipe.yaml.jinja"
    for kind in kinds:
        found |= {f"{source}/{kind}.py": f"{kind}.py.jinja", f"tests/test_{kind}.py": f"test_{kind}.py.jinja"}
    return found


def versions() -> str:
    """The versions of dmd2cli that a plugin written now may expect to work with: up to the next that may break it."""
    major, minor = (int(part) for part in dmd2cli.__version__.split(".")[:2])
    return f">={major}.{minor},<{f'{major}.{minor + 1}' if major == 0 else major + 1}"
