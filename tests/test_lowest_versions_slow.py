"""The lower bounds of pyproject.toml are true: the lowest of each, all at once, in an environment of its own.

Downloads 4 GB at the first time (an old torch) and takes 15 minutes on two cores. `-s` prints what is installed.
"""

import json
import os
import shutil
import subprocess
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
WANTED = {"dmd2cli", "plugins", "recipes", "pyproject.toml", "README.md", "LICENSE"}
"""What a wheel is made of; copied, so that building leaves nothing in the checkout."""
FEW = ("run.batch=4", "run.threads=1")
STEPS = (
    ("--help",),
    ("recipes", "list"),
    ("recipes", "explain", "digits"),
    ("plugins", "list"),
    ("distill", "digits", "run.steps=6", *FEW, "-o", "digits"),
    ("sample", "--student", "digits", "--labels", "0,1,2", "-o", "grid.png"),
    ("eval", "fd-digits", "--student", "digits", "-n", "200", "--no-baselines"),
    ("export", "digits", "--format", "safetensors", "-o", "student.safetensors"),
    ("export", "digits", "--format", "torch-export", "-o", "student.pt2"),
    ("sample", "--student", "student.safetensors", "-n", "4", "-o", "from-file.png"),
    ("doctor", "digits"),
    ("report", "digits", "-o", "report.html"),
    ("pretrain", "sd-tiny-digits-teacher", "run.steps=4", "task.vae_steps=2", *FEW, "-o", "tiny"),
    ("distill", "sd-tiny-digits", "teacher.model=tiny/pipeline", "run.steps=6", *FEW, "-o", "sd"),
    ("distill", "sd-tiny-digits-lora", "teacher.model=tiny/pipeline", "run.steps=6", *FEW, "-o", "sd-lora"),
    ("distill", "sd-tiny-digits-shared", "teacher.model=tiny/pipeline", "run.steps=6", *FEW, "-o", "sd-shared"),
    ("sample", "a handwritten three", "--student", "sd", "-o", "three.png"),
    ("export", "sd-lora", "--format", "lora", "-o", "lora.safetensors"),
    ("export", "sd", "--format", "diffusers", "-o", "diffusers"),
    ("export", "sd", "--format", "comfyui", "-o", "comfyui"),
    ("sample", "a handwritten three", "--pipeline", "tiny/pipeline", "--steps", "2", "-o", "pipeline.png"),
    ("sample", "a three", "--pipeline", "tiny/pipeline", "--lora", "lora.safetensors", "--steps", "2", "-o", "l.png"),
    ("distill", "sd-tiny-digits", "teacher.model=tiny/pipeline", "teacher.lora=[{path: lora.safetensors}]",
     "run.steps=2", *FEW, "-o", "sd-of-lora"),
)  # fmt: skip
"""A part of what dmd2 does, in an order in which each has what it needs."""
IMPORTED = "accelerate, cleanfid.fid, jaxtyping, jinja2, lpips, matplotlib.pyplot, open_clip, scipy.linalg, " \
    "sklearn.datasets, starlette.applications, torch.utils.tensorboard, uvicorn"  # fmt: skip
"""What those do not import, and the rest of dmd2 does."""


def lowest():
    """Name -> lowest version, for each of our requirements."""
    texts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    found = dict[str, str]()
    for wanted in map(Requirement, texts):
        (found[wanted.name],) = (bound.version for bound in wanted.specifier if bound.operator == ">=")
    return found


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Make the environment; returns the folder beside it, in which the commands run one after another."""
    place = tmp_path_factory.mktemp("lowest")
    others = lambda folder, names: set(names) - WANTED if Path(folder) == ROOT else set()  # noqa: E731
    shutil.copytree(ROOT, place / "source", ignore=others)
    venv.create(place / "venv", with_pip=True)
    python = str(place / "venv/bin/python")
    checked(python, "-m", "pip", "install", "--quiet", "--upgrade", "pip", cwd=place)
    pins = [f"{name}=={version}" for name, version in lowest().items()]
    checked(python, "-m", "pip", "install", "--quiet", *pins, str(place / "source"), cwd=place, timeout=3600)
    checked(python, "-m", "pip", "check", cwd=place)
    (place / "work").mkdir()
    yield place / "work"
    shutil.rmtree(place, ignore_errors=True)               # 7 GB


def checked(*command, cwd, timeout=1200):
    """Run a command that must succeed; returns its stdout."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DMD2_PLUGINS")}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run(work, *args):
    return checked(str(work.parent / "venv/bin/python"), "-m", "dmd2cli", *args, cwd=work)


def test_what_is_installed_is_the_lowest(work):
    found = json.loads(run(work, "env", "--json"))
    print("\n" + json.dumps(found, indent=1))
    assert {name: version for name, version in lowest().items() if Version(found[name]) not in same(version)} == {}


def same(version):
    """The version itself, also with a local part such as +cpu."""
    return SpecifierSet(f"=={version}")


@pytest.mark.parametrize("args", STEPS, ids=lambda args: " ".join(args[:2]))
def test_a_command_runs_with_the_lowest_of_everything(work, args):
    run(work, *args)


def test_all_that_is_imported_later_is_there(work):
    checked(str(work.parent / "venv/bin/python"), "-c", f"import {IMPORTED}", cwd=work)
