"""`dmd2 plugins new`: what it writes keeps the protocols, and what it refuses it refuses before it writes."""

import ast
import sys
from pathlib import Path

import pytest
from distributions import develop, install

from dmd2cli.errors import UserError
from dmd2cli.registry import API
from dmd2cli.scaffold import named, scaffold, writing
from dmd2cli.scaffold.kinds import KINDS

ROOT = Path(__file__).parents[2]


def begin(dmd2, *args):
    code, out, err = dmd2("plugins", "new", *args)
    assert code == 0, err
    return out


def refused(dmd2, *args):
    code, out, err = dmd2("plugins", "new", *args)
    assert (code, out) == (2, "") and err.startswith("dmd2: error: ") and err.count("\n") == 1
    return err


@pytest.fixture
def here(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


# -- what is written -------------------------------------------------------------------------------------------


def test_every_kind_of_one_package_passes_its_checks_and_its_recipe_distils(dmd2, site, here):
    begin(dmd2, "all-kinds", *(word for kind in KINDS for word in ("--kind", kind)))
    teacher = here / "all-kinds/src/all_kinds/teacher.py"
    teacher.write_text(teacher.read_text().replace("steps: int = 600", "steps: int = 20"))     # fitted badly, but soon
    sys.path.insert(0, str(develop(site, here / "all-kinds")))
    code, out, err = dmd2("plugins", "check", "all-kinds")
    assert code == 0, out + err
    assert out.count(" all-kinds (all-kinds 0.1.0)") == len(KINDS) and "FAIL" not in out
    small = ["teacher.steps=5", "run.steps=5", "run.batch=4", "run.preview_every=5"]
    code, out, err = dmd2("distill", "all-kinds/recipe.yaml", "-o", "run", *small)
    assert code == 0, err
    code, out, err = dmd2("eval", "all", "--student", "run", "-n", "4", "--no-baselines")
    assert code == 0 and '"metric": "all-kinds"' in out, err


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_of_one_kind_has_no_more_than_it_needs(here, kind):
    files = {str(path.relative_to("p")) for path in scaffold(named("my-one", [kind]), [kind], Path("p"))}
    assert {f"src/my_one/{kind}.py", f"tests/test_{kind}.py", "pyproject.toml", "README.md", "LICENSE"} <= files
    assert not any(f"{other}.py" in file for file in files for other in set(KINDS) - {kind})
    assert ("src/my_one/bars.py" in files) == (kind in ("teacher", "dataset"))
    assert sorted(str(p.relative_to("p")) for p in Path("p").rglob("*") if p.is_file()) == sorted(files)


def test_all_python_in_it_is_typed_and_documented(here):
    for path in scaffold(named("my-all", list(KINDS)), list(KINDS), Path("p")):
        if path.suffix != ".py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert node.returns is not None, (path, node.name)
                assert all(a.annotation for a in node.args.args if a.arg != "self"), (path, node.name)
        assert max(map(len, path.read_text(encoding="utf-8").splitlines())) <= 120


def test_it_says_for_which_api_and_which_versions_it_is_written(here):
    scaffold(named("my-one", ["loss"]), ["loss"], Path("p"))
    assert f"DMD2_API = {API}\n" in Path("p/src/my_one/__init__.py").read_text()
    assert '"dmd2cli>=0.1,<0.2"' in Path("p/pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("version", "bound"), [("0.1.0", ">=0.1,<0.2"), ("0.9.3", ">=0.9,<0.10"), ("2.4.1", ">=2.4,<3")]
)
def test_the_bound_ends_before_the_version_that_may_break_it(monkeypatch, version, bound):
    monkeypatch.setattr("dmd2cli.__version__", version)
    assert writing.versions() == bound


def test_the_example_is_what_plugins_new_writes():
    kinds = ["teacher", "loss", "metric"]
    for path, text in writing.render(named("dmd2-example", kinds), kinds).items():
        assert (ROOT / "plugins/example" / path).read_text(encoding="utf-8") == text, f"make {path} again"


# -- names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "distribution", "module"),
    [("my-teacher", "my-teacher", "my_teacher"), ("My_Teacher", "my-teacher", "my_teacher"), ("a2.b", "a2-b", "a2_b")],
)
def test_one_name_becomes_that_of_the_distribution_and_of_the_module(name, distribution, module):
    found = named(name, ["teacher"])
    assert (found.distribution, found.module) == (distribution, module)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "a name is up to 60 letters"),
        ("2cool", "begins with a letter"),
        ("my teacher", "a name is up to 60 letters"),
        ("../evil", "a name is up to 60 letters"),
        ("lehrer-ä", "letters a to z"),
        ("a--b", "single hyphens"),
        ("trailing-", "single hyphens"),
        ("x" * 61, "up to 60"),
        ("with\nbreak", "a name is up to 60 letters"),
        ("class", "a word of Python's own"),
        ("Match", "a word of Python's own"),
        ("json", "Python has a module json"),
        ("signal", "Python has a module signal"),
        ("torch", "torch is an installed package"),
        ("dmd2cli", "dmd2cli is an installed package"),
        ("dmd2-plugins", "a module dmd2_plugins is installed"),
        ("digits", "a teacher of this name is installed"),
    ],
)
def test_a_name_that_cannot_be_is_refused_and_nothing_is_written(dmd2, here, name, words):
    assert words in refused(dmd2, name, "--kind", "teacher")
    assert list(here.iterdir()) == []


def test_the_name_of_an_installed_plugin_is_refused_for_its_kind_alone(dmd2, site, here):
    install(site, "dmd2-taken", "[dmd2.losses]\nmy_thing = m:a\n")
    assert "a loss of this name is installed" in refused(dmd2, "my-thing", "--kind", "teacher", "--kind", "loss")
    begin(dmd2, "my-thing", "--kind", "teacher")


def test_a_folder_of_that_name_in_the_working_folder_is_no_installed_module(dmd2, here, monkeypatch):
    monkeypatch.syspath_prepend(here)
    (here / "my_thing").mkdir()
    begin(dmd2, "my-thing", "--kind", "loss")


@pytest.mark.parametrize(
    ("kinds", "words"),
    [(["--kind", "teachr"], "did you mean 'teacher'?"), (["--kind", "weighting"], "cannot be begun; choose from")],
)
def test_a_kind_that_cannot_be_begun_is_refused(dmd2, here, kinds, words):
    assert words in refused(dmd2, "my-one", *kinds)


def test_without_a_kind_it_says_that_one_is_needed(dmd2, here):
    code, _, err = dmd2("plugins", "new", "my-one")
    assert code == 2 and "--kind" in err and list(here.iterdir()) == []


# -- folders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["ein Ordner/tief/ä", ".", "empty"])
def test_it_goes_into_a_new_or_an_empty_folder(dmd2, here, folder):
    (here / "empty").mkdir() if folder == "empty" else None
    out = begin(dmd2, "my-one", "--kind", "loss", "-o", folder)
    assert (here / folder / "pyproject.toml").is_file() and f"{Path(folder) / 'pyproject.toml'}" in out
    assert not list((here / folder).glob(".dmd2*"))


def test_a_folder_with_something_in_it_is_refused_and_left_as_it_is(dmd2, here):
    (here / "full").mkdir()
    (here / "full/.mine").write_text("kept")
    assert "full: is not empty" in refused(dmd2, "my-one", "--kind", "loss", "-o", "full")
    assert [p.name for p in (here / "full").iterdir()] == [".mine"]


def test_a_file_in_the_way_is_refused(dmd2, here):
    (here / "file").write_text("kept")
    assert "file: is a file" in refused(dmd2, "my-one", "--kind", "loss", "-o", "file")
    assert refused(dmd2, "my-one", "--kind", "loss", "-o", "file/below") and (here / "file").read_text() == "kept"


def test_a_disk_that_fails_in_the_middle_leaves_nothing(dmd2, here, monkeypatch):
    plain, written = Path.write_text, []

    def write_text(self, *args, **kwargs):
        written.append(self)
        if len(written) == 5:
            raise OSError(28, "No space left on device", str(self))
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", write_text)
    assert "No space left" in refused(dmd2, "my-one", "--kind", "loss", "-o", "new/folder")
    assert list(here.iterdir()) == []


def test_help_of_the_group_imports_no_torch_and_no_templates(dmd2):
    import subprocess

    code = "import sys; from dmd2cli.cli import plugins; print(sorted({'torch', 'jinja2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_a_kind_has_a_template_of_its_own_and_one_of_its_test():
    folder = ROOT / "dmd2cli/scaffold/templates"
    assert all((folder / f"{name}.py.jinja").is_file() for kind in KINDS for name in (kind, f"test_{kind}"))
    with pytest.raises(UserError):
        named("class", ["loss"])
