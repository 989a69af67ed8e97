"""The benchmarks run, and the engine makes no network pass that its recipe does not need."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dmd2cli import registry
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


# -- benchmarks/sdxl.py ----------------------------------------------------------------------------------------

CPU = torch.device("cpu")
SDXL = ("sdxl-4step", "sdxl-4step-24gb", pytest.param("sdxl-4step-lora", marks=pytest.mark.slow))


@pytest.fixture
def sdxl(monkeypatch):
    """The benchmark, its tiny model registered."""
    pytest.importorskip("diffusers")
    module = script("sdxl", monkeypatch)
    with (
        registry.override("teachers", "benchmark", module.teacher(module.TINY, CPU)),
        registry.override("datasets", "benchmark", module.dataset(module.TINY)),
    ):
        yield module


def tiny(sdxl, name, *overrides):
    """A recipe as --tiny has it."""
    return load(sdxl.FOLDER / f"{name}.yaml", ["tier=cpu-smoke", *sdxl.OVERRIDES, *overrides])


@pytest.mark.parametrize("name", SDXL)
def test_a_cycle_of_sdxl_makes_the_passes_that_it_needs_and_no_other(sdxl, name):
    found = sdxl.overhead(tiny(sdxl, name, "run.batch=2", "run.micro_batch=1", "ttur=2"), CPU, 1)
    assert found["passes"]["counted"] == found["passes"]["needed"] and min(found["passes"]["needed"].values()) > 0
    assert found["ratio"] == found["cycle_s"] / found["bare_s"]


def test_the_operations_of_cycles_are_those_that_torch_counts(sdxl):
    recipe = tiny(sdxl, "sdxl-4step", "run.batch=2", "run.micro_batch=1", "run.checkpointing=false", "ttur=2")
    once, work = sdxl.memory(recipe, "cpu").stages[0][1], sdxl.job(recipe, CPU)
    for number in (0, 1):                                   # of which the student is called differently often
        with FlopCounterMode(display=False) as counter:
            sdxl.cycle(work, number)
        expected = recipe.run.batch * sdxl.flops(work, once, range(number, number + 1))
        assert expected == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_the_sdxl_benchmark_writes_its_figures_as_json(sdxl, tmp_path, monkeypatch, capsys):
    out = tmp_path / "sdxl.json"
    small = ["run.batch=2", "run.micro_batch=1", "ttur=2", "--images", "2"]
    asked = ["--tiny", "--device", "cpu", "--cycles", "1", "--variants", "checkpointing", *small, "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["sdxl.py", *asked])
    sdxl.main()
    found, shown = json.loads(out.read_text()), capsys.readouterr().out
    row = found["variants"]["checkpointing"]
    assert row["tflops"] / found["ceiling"]["tflops"] == pytest.approx(row["of_ceiling"])
    assert row["images_per_s"] / found["ceiling"]["tflops"] == pytest.approx(row["per_ceiling"])
    assert row["images_per_s"] == pytest.approx(2 * 2 / row["cycle_s"]) and row["peak_gib"] is None
    assert found["release"]["per_ceiling"] == pytest.approx(128 / 10.8 / 64 / 312)
    assert found["drawing"]["ratio"] > 0 and {"ratio", "ratio_quartiles"} <= found["overhead"].keys()
    assert "ratio" in shown and "matrix product" in shown


def test_without_a_gpu_sdxl_of_its_true_size_is_refused_in_one_line(sdxl, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sdxl.py", "--device", "cpu"])
    with pytest.raises(SystemExit):
        sdxl.main()
    assert "no GPU here; --tiny runs on a CPU" in capsys.readouterr().err


def test_the_micro_batch_is_the_largest_that_fits_unless_one_is_asked(sdxl, monkeypatch):
    monkeypatch.setattr(sdxl, "memory", lambda *_: SimpleNamespace(batch=8, peak=lambda rows: 1000 + 100 * rows))
    recipe = tiny(sdxl, "sdxl-4step", "run.batch=8", "run.micro_batch=1")
    for room, rows in ((2001, 8), (1999, 4), (10, 1)):
        assert sdxl.planned(recipe, "cpu", room, asked=False)[0].run.micro_batch == rows
    assert sdxl.planned(recipe, "cpu", 2001, asked=True)[0].run.micro_batch == 1


def test_where_memory_runs_out_the_table_says_so(sdxl, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(sdxl, "train", full)
    monkeypatch.setattr(sdxl, "memory", lambda *_: SimpleNamespace(stages=[(None, None)]))
    args = argparse.Namespace(variants="eager", tiny=True, overrides=[], room=None, cycles=1)
    ((name, row),) = sdxl.variants(tiny(sdxl, "sdxl-4step"), args, CPU, 1.0)
    assert row["problem"] == "CUDA out of memory" and "out of memory" in sdxl.line(name, row, 1.0)


def test_drawing_beside_the_bare_calls_makes_as_many(sdxl, monkeypatch):
    rows, made = [], sdxl.build.teacher

    def watched(recipe, device):
        found = made(recipe, device)
        found.denoiser.backbone.unet.conv_in.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
        return found

    monkeypatch.setattr(sdxl.build, "teacher", watched)
    sdxl.drawing(tiny(sdxl, "sdxl-4step"), CPU, 2, 1)
    assert rows == [2] * 4 * 2 * 3                          # four calls, of both, thrice
