"""Wheels of ours, of the example and of a scaffold of every kind, in a fresh environment: installed, used, removed.

The environment sees the packages of the outer one (torch and the rest) behind its own, so that nothing is downloaded.
"""

import json
import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

from dmd2cli.scaffold.kinds import KINDS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
OUTER = sysconfig.get_path("purelib")


class Environment:
    """A virtual environment of its own, with the outer packages behind."""

    def __init__(self, folder):
        venv.create(folder, with_pip=False)
        self.bin, self.work = folder / "bin", folder.parent
        (own,) = folder.glob("lib/python*/site-packages")
        (own / "outer.pth").write_text(f"{OUTER}\n")       # its .pth files are not read: ours is not seen through it

    def __call__(self, *command, code=0):
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DMD2_PLUGINS")}
        env |= {"PATH": f"{self.bin}{os.pathsep}{env['PATH']}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [str(self.bin / "python"), *command[1:]] if command[0] == "python" else command
        done = subprocess.run(command, cwd=self.work, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def pip(self, *args):
        return self("python", "-m", "pip", "--disable-pip-version-check", *args)

    def dmd2(self, *args, code=0):
        return self(str(self.bin / "dmd2"), *args, code=code)

    def plugins(self):
        return json.loads(self.dmd2("plugins", "list", "--json").stdout)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """An environment with our wheel, that of the example, and that of a scaffold of all kinds."""
    folder = tmp_path_factory.mktemp("install")
    made = Environment(folder / "env")
    wheel(made, ROOT, folder / "wheels")
    made.pip("install", "--no-index", "--no-deps", *map(str, (folder / "wheels").glob("dmd2cli-*.whl")))
    kinds = [word for kind in KINDS for word in ("--kind", kind)]
    made.dmd2("plugins", "new", "every-kind", *kinds, "-o", "every kind/ä")
    for project in (ROOT / "plugins/example", folder / "every kind/ä"):
        wheel(made, project, folder / "wheels")
    others = [str(path) for path in (folder / "wheels").glob("*.whl") if not path.name.startswith("dmd2cli")]
    assert len(others) == 2
    made.pip("install", "--no-index", "--no-deps", *others)
    return made


def wheel(made, project, out):
    """Build one from a copy, so that no build folder is left in the project."""
    copy = made.work / "copies" / project.name
    ignored = ["--exclude", ".git", "--exclude", "runs"]
    copy.mkdir(parents=True)
    pack = subprocess.Popen(["tar", "-C", str(project), *ignored, "-c", "."], stdout=subprocess.PIPE)
    subprocess.run(["tar", "-C", str(copy), "-x"], stdin=pack.stdout, check=True)
    made.pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "-q", "-w", str(out), str(copy))


def test_what_runs_is_what_was_installed(fresh):
    code = "import dmd2cli, dmd2_example, every_kind as e; print(dmd2cli.__file__, dmd2_example.__file__, e.__file__)"
    assert all(str(fresh.work / "env") in file for file in fresh("python", "-c", code).stdout.split())


@pytest.mark.parametrize(("name", "kinds"), [("dmd2-example", 3), ("every-kind", len(KINDS))])
def test_what_it_registers_is_listed_and_passes_its_checks(fresh, name, kinds):
    assert [p["name"] for p in fresh.plugins() if p["distribution"] == name] == [name] * kinds
    found = json.loads(fresh.dmd2("plugins", "check", name, "--json").stdout)
    assert len(found) == kinds and all(one["passed"] for one in found)


@pytest.mark.parametrize("project", ["copies/example", "copies/ä"])
def test_the_tests_that_come_with_it_pass(fresh, project):
    assert " passed" in fresh("python", "-m", "pytest", "-p", "no:cacheprovider", project).stdout


@pytest.mark.parametrize(("name", "folder"), [("dmd2-example", "copies/example"), ("every-kind", "copies/ä")])
def test_a_student_is_distilled_drawn_and_measured_with_it(fresh, name, folder):
    run = f"runs/{name}"
    short = ["run.steps=20", "run.preview_every=20", "teacher.steps=50"]
    fresh.dmd2("distill", f"{folder}/recipe.yaml", "-o", run, *short)
    assert json.loads((fresh.work / run / "student/student.json").read_text())["teacher"]["use"] == name
    fresh.dmd2("sample", "--student", run, "--labels", "0,1", "-n", "8", "-o", f"{name}.png")
    assert (fresh.work / f"{name}.png").is_file()
    found = json.loads(fresh.dmd2("eval", name, "--student", run, "-n", "16", "--no-baselines").stdout)
    assert found["metric"] == name and 0 < found["value"] < 1
    if name == "every-kind":
        fresh.dmd2("export", run, "--format", name, "-o", "student.npz")
        assert (fresh.work / "student.npz").is_file()


def test_types_of_a_scaffold_are_right_for_a_strict_checker(fresh):
    pytest.importorskip("mypy")
    strict = ["--strict", "--explicit-package-bases", "--follow-imports=silent"]
    assert "Success" in fresh("python", "-m", "mypy", *strict, "copies/ä/src/every_kind").stdout


def test_uninstalled_they_are_gone_and_ours_stays(fresh):
    fresh.pip("uninstall", "-y", "dmd2-example", "every-kind")
    assert {p["distribution"] for p in fresh.plugins()} == {"dmd2cli"}
    said = fresh.dmd2("distill", "copies/example/recipe.yaml", "-o", "runs/again", code=2).stderr
    assert "teacher: unknown teacher 'dmd2-example'" in said and "Traceback" not in said
    said = fresh.dmd2("sample", "--student", "runs/dmd2-example", "-o", "gone.png", code=2).stderr
    assert "teacher 'dmd2-example' is not installed" in said
    assert "no plugin of this name" in fresh.dmd2("plugins", "check", "dmd2-example", code=2).stderr
    assert "step 4/4" in fresh.dmd2("distill", "digits", "-o", "runs/ours", "run.steps=4", "run.batch=8").stderr

