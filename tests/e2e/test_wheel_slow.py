"""The wheel, installed where there is no checkout: packaged recipes and weights are found, and a student comes out."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WANTED = {"dmd2cli", "plugins", "recipes", "pyproject.toml", "README.md", "LICENSE"}
"""What a wheel is made of; copied, so that building leaves nothing in the checkout."""
TINY = ("run.steps=20", "run.batch=8", "run.threads=1")

pytestmark = pytest.mark.slow


def checked(command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dmd2(tmp_path_factory):
    """Run the installed command in a folder of its own, outside the checkout; returns its stdout."""
    place = tmp_path_factory.mktemp("wheel")
    pytest.importorskip("setuptools", minversion="70")
    source = place / "source"
    shutil.copytree(ROOT, source, ignore=lambda folder, names: set(names) - WANTED if Path(folder) == ROOT else set())
    checked([sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", place, source], cwd=place)
    (wheel,) = place.glob("dmd2cli-*.whl")
    venv.create(place / "venv", with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": place / "venv", "platbase": place / "venv"}))
    checked([sys.executable, "-m", "pip", "install", "--no-deps", "--target", site, wheel])
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = place / "venv" / "bin" / "python"
    work = place / "elsewhere"
    work.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}

    def dmd2(*args):
        return checked([python, "-m", "dmd2cli", *args], cwd=work, env=environment)

    where = checked([python, "-c", "import dmd2cli, dmd2_plugins; print(dmd2cli.__file__, dmd2_plugins.__file__)"],
                    cwd=work, env=environment)  # fmt: skip
    assert all(path.startswith(str(site)) for path in where.split())
    dmd2.folder = work
    return dmd2


def test_every_recipe_is_packaged(dmd2):
    found = [recipe["name"] for recipe in json.loads(dmd2("recipes", "list", "--json"))]
    recipes = ROOT / "recipes"
    there = [p.relative_to(recipes).with_suffix("").as_posix() for p in recipes.rglob("*.yaml")]
    assert sorted(found) == sorted(name for name in there if not name.startswith("presets/"))
    assert dmd2("distill", "digits", "preset=dmd2-release", "--dry-run")


def test_a_recipe_path_that_is_not_on_disk_is_the_packaged_one_and_trains(dmd2):
    assert dmd2("distill", "recipes/digits.yaml", *TINY, "-o", "run").startswith("run/student: 1-step student after 20")
    dmd2("sample", "--student", "run", "--labels", "0,1,2", "-o", "grid.png")
    found = json.loads(dmd2("eval", "fd-digits", "--student", "run", "-n", "50", "--no-baselines"))
    assert found["n"] == 50 and (dmd2.folder / "grid.png").is_file()
