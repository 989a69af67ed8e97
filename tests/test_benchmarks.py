"""The benchmarks run, and the engine makes no network pass that its recipe does not need."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from dmd2cli.recipe import load

STEP = Path(__file__).parent.parent / "benchmarks" / "step.py"
APART = ["losses.joint_critic=null", "losses.denoising.weight=1.0", "losses.gan_critic.weight=1.0e-2"]


@pytest.fixture(scope="module")
def step():
    spec = importlib.util.spec_from_file_location("benchmark_step", STEP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RECIPES = {
    "joint": [],
    "apart": APART,
    "no GAN": [*APART, "losses.gan_critic=null", "losses.gan_generator=null"],
    "guided": ["losses.distribution_matching.guidance=2.0"],
    "ttur 2": ["ttur=2"],
}


@pytest.mark.parametrize("overrides", RECIPES.values(), ids=RECIPES)
def test_a_cycle_makes_the_passes_that_the_recipe_needs_and_no_other(step, overrides):
    passes = step.measure(load("digits", ["run.batch=8", *overrides]), cycles=2)["passes"]
    assert passes["counted"] == passes["needed"]


def test_the_step_benchmark_writes_its_figures_as_json(step, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["step.py", "run.batch=8", "--cycles", "2", "--json", str(tmp_path / "step.json")])
    step.main()
    found = json.loads((tmp_path / "step.json").read_text())
    assert found["ratio"] > 0 and {"cycle_s", "bare_s", "hand_s", "hardware", "torch"} <= found.keys()
    assert "ratio" in capsys.readouterr().out
