"""The benchmarks run, and the engine makes no network pass that its recipe does not need."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

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


def script(name, monkeypatch):
    """A benchmark as a module."""
    monkeypatch.syspath_prepend(str(STEP.parent))
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", STEP.with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["regression, L2", "R1", "diversity", "lag, every cycle"])
def test_the_cost_of_an_option_is_measured_beside_its_bare_passes(name, monkeypatch, dmd2_pairs):
    terms = script("terms", monkeypatch)
    monkeypatch.setattr(terms, "BASE", (*terms.BASE, "run.batch=8"))
    found = terms.measure(name, 1, dmd2_pairs)
    assert found["without_s"] > 0 and found["added"] == found["added_s"] / found["without_s"]
    assert found["bare_s"] > 1e-3 or name == "diversity"


@pytest.fixture
def dmd2_pairs(tmp_path):
    from dmd2cli.engine.pairs import make, maker

    make(maker(load("digits", ["run.batch=8"]), torch.device("cpu"), 0, None), tmp_path / "pairs", range(16), 16)
    return str(tmp_path / "pairs")


def test_the_guidance_benchmark_compares_both_kinds_of_students_at_every_scale(monkeypatch, tmp_path, capsys):
    guidance = script("guidance", monkeypatch)
    monkeypatch.setattr(guidance, "STEPS", {"ranged": 1, "fixed": 1})
    monkeypatch.setattr(guidance, "N", 100)
    monkeypatch.setattr(sys, "argv", ["guidance.py", "--out", str(tmp_path), "--scales", "1.5", "4"])
    guidance.main()
    held = json.loads((tmp_path / "guidance-0.json").read_text())
    assert list(held["rows"]) == ["1.5", "4"] and "one for all" in capsys.readouterr().out
    assert all(row["one for all"] > row["floor"] > 0 for row in held["rows"].values())
