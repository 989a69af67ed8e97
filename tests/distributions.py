"""Fake installed distributions: a dist-info folder and a module on sys.path."""

from __future__ import annotations

from pathlib import Path

import pytest


def install(site: Path, name: str, entry_points: str, **modules: str) -> None:
    """Write a distribution `name` 1.2 with these entry points, and modules as NAME=SOURCE, into `site`."""
    info = site / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(entry_points)
    for module, source in modules.items():
        (site / f"{module}.py").write_text(source)


def develop(site: Path, project: Path) -> Path:
    """Write what an editable install of a project writes, without pip; returns its sources, to go on sys.path.

    site: a folder that is on sys.path already.
    """
    tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")
    facts = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = site / f"{facts['name'].replace('-', '_')}-{facts['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {facts['name']}\nVersion: {facts['version']}\n")
    lines = []
    for group, names in facts["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in names.items())]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    return (project / "src" if (project / "src").is_dir() else project).resolve()
