"""Fake installed distributions: a dist-info folder and a module on sys.path."""

from __future__ import annotations

from pathlib import Path


def install(site: Path, name: str, entry_points: str, **modules: str) -> None:
    """Write a distribution `name` 1.2 with these entry points, and modules as NAME=SOURCE, into `site`."""
    info = site / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(entry_points)
    for module, source in modules.items():
        (site / f"{module}.py").write_text(source)
