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


@pytest.fixture
def step(monkeypatch):
    return script("step", monkeypatch)


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
    encoded = {net: passes["needed"][f"{net} encoder"] for net in ("generator", "fake", "real")}
    names = {"generator": "generator.", "fake": "critic.fake.", "real": "teacher."}
    assert encoded == {net: sum(n for k, n in passes["calls"].items() if k.startswith(p)) for net, p in names.items()}


def test_the_step_benchmark_writes_its_figures_as_json(step, tmp_path, monkeypatch, capsys):
    out = tmp_path / "step.json"
    asked = ["run.batch=8", "--cycles", "2", "--switches", "checkpointing,foreach", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["step.py", *asked])
    step.main()
    found, shown = json.loads(out.read_text()), capsys.readouterr().out
    assert found["ratio"] > 0 and {"cycle_s", "bare_s", "hand_s", "hardware", "torch"} <= found.keys()
    plain, foreach = found["steps"]["plain"], found["steps"]["foreach"]
    assert plain["to_plain"] == 1 and foreach["to_plain"] > 0 and "ratio" in shown and "foreach" in shown
    assert plain["tflops"] == pytest.approx(found["tflop_per_cycle"] / plain["cycle_s"])
    assert plain["of_ceiling"] == pytest.approx(plain["tflops"] / found["ceiling"]["tflops"])
    assert sum(plain["parts_s"].values()) == pytest.approx(plain["cycle_s"], rel=0.1)
    assert plain["parts_s"]["critic"] > plain["parts_s"]["EMA"] > 0 < plain["data_wait_s"] and plain["peak_gib"] > 0
    assert found["steps"]["checkpointing"]["tflops"] > 0


def test_a_switch_that_a_recipe_cannot_have_is_a_row_that_says_why(step):
    found = step.compared(["checkpointing"], "toy-grid25", ["run.batch=8"], torch.device("cpu"), 1)
    assert "names no blocks" in found["checkpointing"]["problem"] and found["plain"]["cycle_s"] > 0
    assert "names no blocks" in step.line("checkpointing", found["checkpointing"])


def test_an_unknown_switch_is_refused_in_one_line(step, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["step.py", "--switches", "turbo"])
    with pytest.raises(SystemExit):
        step.main()
    assert "turbo: choose from checkpointing" in capsys.readouterr().err


def test_a_recorded_cycle_is_made_again_with_the_same_gradients_of_the_same_weights(monkeypatch):
    replay, distill = script("replay", monkeypatch), importlib.import_module("dmd2cli.engine.distill")
    work = distill.job(load("digits-4step", ["run.batch=4"]), torch.device("cpu"))
    recording, reached = replay.Recording(work), []
    with recording():
        work.step(0)

    def noted(self):
        reached.append({p for p in self.learning if p.grad is not None})

    monkeypatch.setattr(replay.Recording, "forget", noted)
    recording.again()
    players = work.players()
    assert set(players["generator"].parameters) <= reached[0]                    # up to the generator's update
    assert any(set(player.parameters) & reached[-1] for name, player in players.items() if name != "generator")
    assert not any(p in reached[-1] for p in work.distillation.nets.real.parameters())
    assert all("forward" not in net.__dict__ for net in work.watched().values())


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


# -- scaling, io, sampling, overhead ------------------------------------------------------------------------------


def made(name, monkeypatch, tmp_path, *asked):
    """The result of a benchmark's command line."""
    module, out = script(name, monkeypatch), tmp_path / "out" / f"{name}.json"
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--tiny", "--json", str(out), *asked])
    module.main()
    return json.loads(out.read_text())


@pytest.mark.slow
def test_scaling_compares_ranks_of_every_mode_with_one(monkeypatch, tmp_path, capsys):
    found = made("scaling", monkeypatch, tmp_path, "--modes", "replicate", "--kinds", "strong")
    one, two = found["cases"]["1 rank"], found["cases"]["2 replicate, strong"]
    assert one["speedup"]["median"] == 1 and found["batch"] == 8 and found["rounds"] == 3
    assert 0 < two["speedup"]["median"] < 4 and two["cpu_s_per_step_all"] >= two["cpu_s_per_step"] > 0
    assert "2 replicate, strong" in capsys.readouterr().out


def test_hybrid_is_for_four_ranks_and_more_and_weak_scaling_has_a_batch_for_each(monkeypatch):
    scaling, recipe = script("scaling", monkeypatch), load("digits")
    args = argparse.Namespace(ranks=[1, 2, 4], modes=["replicate", "hybrid"], kinds=["strong", "weak"], overrides=[])
    cases = scaling.cases(args)
    assert [case.name for case in cases if case.mode == "hybrid"] == ["4 hybrid, strong", "4 hybrid, weak"]
    assert [case.batch(recipe) for case in cases] == [128, 128, 256, 128, 512, 128, 512]
    assert "run.shard_size=2" in scaling.overrides(args, cases[-1], recipe)


def test_speedups_are_those_of_blocks_of_one_round(monkeypatch):
    scaling = script("scaling", monkeypatch)
    one, two, times = scaling.Case(1), scaling.Case(2, "shard", "weak"), {"cpu_all": 1.0}
    rounds = [
        {"1 rank": {"wall": k, "cpu": k, **times}, "2 shard, weak": {"wall": k, "cpu": 2 * k, **times}}
        for k in (1, 4, 9)
    ]
    row = scaling.row(two, one, rounds)
    assert row["speedup"] == {"median": 2, "low": 2, "high": 2} and row["speedup_by_cpu"]["median"] == 1


def test_ranks_that_cannot_start_are_told_of_in_one_line(monkeypatch, tmp_path):
    scaling = script("scaling", monkeypatch)
    with pytest.raises(scaling.UserError, match="9 samples cannot be shared out"):
        made("scaling", monkeypatch, tmp_path, "run.batch=9", "--modes", "replicate", "--kinds", "strong")


@pytest.mark.slow
def test_checkpoints_are_measured_beside_the_disk(monkeypatch, tmp_path, capsys):
    found = made("io", monkeypatch, tmp_path, "--ranks", "1", "--folder", str(tmp_path))
    row = found["ranks"]["1"]["8"]
    assert row["bytes"] == pytest.approx(8 * 2**20, rel=0.01) and min(row.values()) > 0
    assert row["wait_s"] < row["behind_s"] and "save/write" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["out"]                # nothing is left on the disk


def test_sampling_is_measured_beside_the_bare_calls(monkeypatch, tmp_path, capsys):
    found = made("sampling", monkeypatch, tmp_path, "digits-4step")
    student, teacher = found["rows"]["student"], found["rows"]["teacher"]
    assert [row["batch"] for row in student] == [1, 2] and student[0]["calls"] == 4 and teacher[0]["calls"] == 35
    assert all(row["p50_s"] <= row["p90_s"] <= row["p99_s"] and row["ratio"] > 0 for row in student + teacher)
    assert "images/s" in capsys.readouterr().out


def test_a_trained_student_is_measured_with_its_teacher(monkeypatch, tmp_path):
    from dmd2cli.engine.distill import job

    work = job(load("digits", ["run.batch=4"]), torch.device("cpu"))
    work.publication(tmp_path, 1)()
    found = made("sampling", monkeypatch, tmp_path, str(tmp_path))
    assert found["rows"]["student"][0]["calls"] == 1 and found["rows"]["teacher"][0]["calls"] == 35


def test_the_signals_of_health_are_timed(monkeypatch, tmp_path, capsys):
    found = made("health", monkeypatch, tmp_path)
    assert set(found["rows"]) == {"signals", "critic's lag", "validation"}
    shares = [row["s"] / found["step_s"] / row["every"] for row in found["rows"].values()]
    assert found["share"] == pytest.approx(sum(shares)) and min(shares) > 0


def test_the_overhead_of_a_run_is_taken_apart(monkeypatch, tmp_path, capsys):
    found = made("overhead", monkeypatch, tmp_path)
    row = found["trainer"]
    assert row["steps"] == 20 and row["ratio"] == pytest.approx(row["train_s"] / row["loop_s"])
    assert row["beside"] > 1 and {"previews", "checkpoints: the copy", "guards looked at"} <= row["shares"].keys()
    assert found["engine"]["ratio"] > 0 and "wanted: at most 1.03" in capsys.readouterr().out
