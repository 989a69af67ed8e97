"""Taste that can be measured: who imports whom, how long things are, what is packaged, what cites what."""

from __future__ import annotations

import ast
import shutil
import statistics
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in ("dmd2cli", "plugins") for path in sorted((ROOT / folder).rglob("*.py"))]
FILE_LINES, FUNCTION_LINES = 250, 40
MEDIAN_FILE, MEDIAN_FUNCTION, P90_FUNCTION = 155, 8, 36
WAIVERS: dict[str, int] = {
    "dmd2cli/protocols.py": 290,                           # the one file a plugin author reads
    "dmd2cli/cli/eval.py::evaluate": 50,                   # the options of a command are its signature
    "dmd2cli/cli/compare.py::compare": 47,                 # the options of a command are its signature
    "dmd2cli/cli/sample.py::sample": 64,                   # the options of a command are its signature
}
"""Path or path::function -> the length it may have instead, with the reason beside it."""


def lengths() -> dict[str, int]:
    """path::function -> lines, over all sources."""
    found = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                found[f"{relative(path)}::{node.name}:{node.lineno}"] = node.end_lineno - node.lineno + 1
    return found


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def too_long(found: dict[str, int], limit: int) -> dict[str, int]:
    return {name: n for name, n in found.items() if n > WAIVERS.get(name.rpartition(":")[0] or name, limit)}


def test_no_file_is_too_long():
    found = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert len(found) > 50
    assert too_long(found, FILE_LINES) == {}
    assert statistics.median(found.values()) <= MEDIAN_FILE


def test_no_function_is_too_long():
    found = lengths()
    assert too_long(found, FUNCTION_LINES) == {}
    assert statistics.median(found.values()) <= MEDIAN_FUNCTION
    assert statistics.quantiles(found.values(), n=10)[-1] <= P90_FUNCTION


def test_every_waiver_is_needed():
    names = {relative(path) for path in SOURCES} | {name.rpartition(":")[0] for name in lengths()}
    assert set(WAIVERS) <= names


def test_layers_import_downwards():
    command = shutil.which("lint-imports", path=sysconfig.get_path("scripts")) or shutil.which("lint-imports")
    if command is None:
        pytest.skip("import-linter is not installed: pip install 'dmd2cli[dev]'")
    found = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "0 broken" in found.stdout


@pytest.mark.parametrize("module", ["dmd2cli", "dmd2cli.cli.app", "dmd2cli.registry", "dmd2cli.recipe"])
def test_what_every_command_imports_is_free_of_torch(module):
    code = f"import sys, {module}; print(sorted({{'torch', 'numpy', 'diffusers'}} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_listed_packages_are_the_folders_with_python_files():
    tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {name: ROOT / path for name, path in settings["package-dir"].items()} | {"dmd2cli": ROOT / "dmd2cli"}
    there = {
        ".".join([name, *path.parent.relative_to(folder).parts])
        for name, folder in folders.items()
        for path in folder.rglob("*.py")
    }
    assert sorted(there) == sorted(settings["packages"])


def test_every_entry_point_of_ours_loads():
    from dmd2cli import registry

    for kind in registry.KINDS:
        assert registry.names(kind)
        for plugin in registry.describe(kind):
            if plugin.distribution == "dmd2cli":
                assert callable(registry.load(kind, plugin.name)), (kind, plugin.name)


def test_every_module_says_what_it_is_for():
    silent = [
        relative(path)
        for path in SOURCES
        if (tree := ast.parse(path.read_text(encoding="utf-8"))).body and not ast.get_docstring(tree)
    ]
    assert silent == []


def test_every_file_with_slow_tests_is_listed_with_what_covers_it_otherwise():
    page = (ROOT / "tests/README.md").read_text(encoding="utf-8")
    slow = [path for path in (ROOT / "tests").rglob("test_*.py") if "mark.slow" in path.read_text(encoding="utf-8")]
    names = {path.relative_to(ROOT / "tests") for path in slow} - {Path("test_architecture.py")}
    assert [str(name) for name in names if f"| `{name}` |" not in page and f"| `{name.parent}/` |" not in page] == []
