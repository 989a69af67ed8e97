"""Versions that were tested together: constraints.txt, what the wheel ships of it, what commands say of others."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from dmd2cli.cli import training
from dmd2cli.installation import packages, tested

tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
WRITTEN = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
LINES = [line for line in WRITTEN if not line.startswith("#")]
PINS = {pin.name: pin for pin in map(Requirement, LINES)}
FREE = {"torch", "torchvision"}
INSTALLS = ("quickstart", "test", "test-slow", "lint", "docs", "bench")
FILES = [path for folder in ("dmd2cli", "plugins/dmd2_plugins") for path in sorted((ROOT / folder).rglob("*.py"))]


def direct(*extras):
    """Normalized name -> our requirement, of [project.dependencies] and these extras."""
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in EXTRAS[extra])]
    found = {canonicalize_name(wanted.name): wanted for wanted in map(Requirement, texts)}
    found.pop("dmd2cli", None)
    return found


def only(pin):
    """The version of a line."""
    (specifier,) = pin.specifier
    assert specifier.operator == "==" and "*" not in specifier.version
    return specifier.version


def made_by():
    """The script that writes the file."""
    spec = importlib.util.spec_from_file_location("constraints", ROOT / ".ci/constraints.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- the file ----------------------------------------------------------------------------------------------------


def test_every_line_is_one_version_of_one_package_in_order_and_of_no_machine():
    assert [pin.name for pin in PINS.values()] == sorted(PINS) and len(PINS) == len(LINES) > 100
    for line, pin in zip(LINES, PINS.values(), strict=True):
        assert pin.name == canonicalize_name(pin.name) and not pin.extras and pin.url is None
        assert Version(only(pin)).local is None and not re.search(r"://|--|@|sha256", line)
    assert not re.search(r"https?:|\.org|\.com|/home|/root|/work", "\n".join(WRITTEN))


def test_all_that_we_ask_for_is_there_and_torch_with_its_parts_is_not():
    assert direct(*EXTRAS).keys() - FREE <= PINS.keys()
    assert "dmd2cli" not in PINS
    assert [name for name in PINS if name in FREE or name.startswith(("nvidia-", "cuda-", "triton"))] == []


def test_the_tested_versions_are_within_our_own_bounds():
    for name, wanted in direct(*EXTRAS).items():
        version = tested.tested()[name] if name in FREE else only(PINS[name])
        assert wanted.specifier.contains(version, prereleases=True), (wanted, version)


def test_a_line_that_an_older_python_cannot_install_is_none_there():
    assert PINS["numpy"].marker is not None
    for pin in PINS.values():
        assert pin.marker is None or not pin.marker.evaluate({"python_version": "3.10"})
        assert pin.marker is None or pin.marker.evaluate({"python_version": "3.14"})


def test_the_wheel_ships_the_same_versions_without_the_tools():
    shipped, tools = dict(tested.tested()), {"ruff", "mypy", "pytest", "mkdocs"}
    assert shipped.keys() >= FREE and not tools & shipped.keys()
    assert direct("8bit", "data", "metrics", "onnx", "wandb").keys() <= shipped.keys()
    for name in FREE:
        del shipped[name]
    assert shipped == {name: only(PINS[name]) for name in shipped}


def test_the_script_finds_what_is_required_by_what_is_required_and_leaves_torch_alone():
    found = made_by().installed(["onnx"])
    assert {"torch", "onnx", "ml-dtypes", "typer", "tokenizers"} <= found.keys()
    assert not {"ruff", "mkdocs", "triton", "setuptools"} & found.keys()


@pytest.mark.parametrize(
    ("metadata", "line"),
    [
        ("Name: Some_Pkg\nVersion: 1.2+cpu\n", "some-pkg==1.2\n"),
        ("Name: a\nVersion: 1\nRequires-Python: >=3.8\n", "a==1\n"),
        ("Name: a\nVersion: 1\nRequires-Python: >=3.10.4\n", "a==1\n"),
        ("Name: a\nVersion: 1\nRequires-Python: >=3.12\n", 'a==1 ; python_version >= "3.12"\n'),
    ],
)
def test_a_line_has_the_marker_of_its_package(tmp_path, metadata, line):
    from importlib.metadata import PathDistribution

    info = tmp_path / "a-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\n{metadata}")
    assert made_by().line(PathDistribution(info)) == line


# -- who uses it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", INSTALLS)
def test_every_target_that_installs_installs_those_versions(tmp_path, target):
    said = made(target, tmp_path)
    installs = [line for line in said if "pip install" in line]
    assert installs and all("--constraint constraints.txt" in line for line in installs)


def test_the_newest_are_installed_without_them_and_written_down_after_the_tests(tmp_path):
    said = made("constraints", tmp_path)
    (install,) = (i for i, line in enumerate(said) if "pip install" in line)
    (run,) = (i for i, line in enumerate(said) if "pytest" in line)
    (write,) = (i for i, line in enumerate(said) if ".ci/constraints.py" in line)
    assert install < run < write and "--upgrade-strategy eager" in said[install] and "constraint" not in said[install]


def made(target, folder):
    """What make would run for a target in a fresh checkout."""
    command = ["make", "-n", "-C", str(ROOT), target, f"VENV={folder / 'fresh'}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md", "docs/versions.md"])
def test_the_pages_show_both_ways_to_install(page):
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("pip install .") for line in lines)
    assert any(line.startswith("pip install -c constraints.txt .") for line in lines)


def test_all_that_is_imported_is_required():
    """Also by name in import_module() and extra(); of what the standard library and we have, nothing is."""
    named = re.compile(r"\b(?:import_module|extra)\(\"([\w.]+)\"")
    modules = set()
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        modules |= set(named.findall(text))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules.add(node.module)
    tops = {module.partition(".")[0] for module in modules} - set(sys.stdlib_module_names)
    tops -= {"dmd2cli", "dmd2_plugins", "pytest"}          # pytest: of dmd2cli.testing, which runs under it
    wanted = direct(*(extra for extra in EXTRAS if extra not in packages.TOOLS))
    assert len(tops) > 20
    assert {top for top in tops if canonicalize_name(packages.distribution_of(top)) not in wanted} == set()


# -- what the commands say ---------------------------------------------------------------------------------------


@pytest.fixture
def versions(monkeypatch):
    """Set installed versions; all others are the tested ones. Local parts are cut off as from real ones."""
    changed = {}
    monkeypatch.setattr(packages, "version", lambda name: changed.get(name) or tested.tested()[name])
    return changed


@pytest.fixture
def unsaid(monkeypatch):
    """Nothing has been said in this process yet."""
    monkeypatch.setattr(tested, "_mentioned", False)


def untested_of(dmd2):
    return next(line for line in dmd2("env")[1].splitlines() if line.startswith("untested"))


def test_env_says_none_where_all_are_tested(versions, dmd2):
    assert untested_of(dmd2).split() == ["untested", "none"]
    assert json.loads(dmd2("env", "--json")[1])["untested"] == {}


def test_env_names_other_versions_in_one_line(versions, dmd2):
    known = tested.tested()
    versions |= {"transformers": "99.1", "peft": "0.1", "regex": "1", "torch": f"{known['torch']}+cpu"}
    line = untested_of(dmd2)
    assert f"transformers 99.1 (tested {known['transformers']})" in line and "peft 0.1 (tested " in line
    assert "torch" not in line and line.endswith("1 that these require (--json names them)")
    assert json.loads(dmd2("env", "--json")[1])["untested"] == {
        name: {"installed": versions[name], "tested": known[name]} for name in ("peft", "transformers", "regex")
    }


def test_env_is_silent_on_packages_that_are_not_installed(versions, monkeypatch):
    def version(name):
        raise packages.PackageNotFoundError(name)

    monkeypatch.setattr(packages, "version", version)
    assert tested.untested() == {}


@pytest.mark.parametrize("other", ["2.8.0", "99.0", "99.0.dev20270101"])
def test_another_torch_is_said_once(versions, unsaid, capsys, other):
    versions["torch"] = other
    for _ in range(2):
        tested.mention_torch()
    err = capsys.readouterr().err
    assert err.startswith(f"note: torch {other} is not the tested one") and err.count("\n") == 1


def test_the_tested_torch_and_a_build_of_it_are_not_worth_a_word(versions, unsaid, capsys):
    versions["torch"] = f"{tested.tested()['torch']}+cu130"
    tested.mention_torch()
    assert capsys.readouterr().err == ""


def test_other_ranks_say_nothing(versions, unsaid, capsys):
    versions["torch"] = "99.0"
    tested.mention_torch(rank=1)
    assert capsys.readouterr().err == ""


def test_training_says_it_and_trains(versions, unsaid, capsys, monkeypatch, tmp_path):
    versions["torch"] = "99.0"
    monkeypatch.setattr("dmd2cli.engine.run.run", lambda *args, **options: 7)
    assert training.train(None, tmp_path, None, "auto") == 7
    assert capsys.readouterr().err.startswith("note: torch 99.0 is not")


def test_drawing_and_measuring_say_it_and_do_it(versions, unsaid, monkeypatch, dmd2, tmp_path):
    versions["torch"] = "99.0"
    code, _, err = dmd2("sample", "--teacher", "digits", "--steps", "2", "-n", "2", "-o", tmp_path / "two.png")
    assert code == 0 and err.count("note: torch 99.0 is not") == 1 and (tmp_path / "two.png").is_file()
    monkeypatch.setattr(tested, "_mentioned", False)
    options = ["--steps", "2", "-n", "20", "--no-baselines"]
    code, _, err = dmd2("eval", "fd-digits", "--teacher", "digits", *options)
    assert code == 0 and err.count("note: torch 99.0 is not") == 1
