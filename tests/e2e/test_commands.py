"""From a recipe to a student, pictures, numbers and files, as a stranger would: only commands and what they leave."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dmd2cli import load_student

CELL, GAP, CAPTION = 48, 2, 16


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ok(done):
    assert done.code == 0, done
    return done


def pixels(path):
    return torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1)


# -- distill ---------------------------------------------------------------------------------------------------


def test_a_run_folder_has_all_that_the_other_commands_and_a_reader_need(tiny):
    for name in ("recipe.yaml", "run.json", "metrics.jsonl", "tb", "checkpoints/latest", "checkpoints/step-00000006",
                 "student/model.safetensors", "student/student.json", "samples/step-00000006.png"):  # fmt: skip
        assert (tiny / name).exists(), name
    held = json.loads((tiny / "run.json").read_text())
    assert held["command"].startswith("dmd2 distill digits run.steps=6 ")
    contract = json.loads((tiny / "student" / "student.json").read_text())
    assert contract["steps"] == 1 and contract["sampler"]["times"] == [1.0] and contract["guidance"] == 1.0
    assert contract["teacher"]["use"] == "digits" and contract["conditions"] == list(range(10))
    assert contract["trained"] == {"steps": 6, "generator_updates": 2, "weights": "ema"}
    last = json.loads((tiny / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 6 and {"generator", "critic", "validation"} == {k.split("/")[0] for k in last if k != "step"}


def test_a_dry_run_prints_the_resolved_recipe_and_makes_nothing(dmd2, here):
    done = ok(dmd2("distill", "digits", "run.steps=7", "--dry-run", "-o", "run"))
    (here / "shown.yaml").write_text(done.out)
    assert "steps: 7" in done.out and not (here / "run").exists()
    assert ok(dmd2("distill", "shown.yaml", "--dry-run")).out == done.out


def test_without_a_name_the_run_is_called_after_its_recipe(dmd2, here):
    tiny = ("run.steps=1", "run.batch=4", "run.threads=1")
    ok(dmd2("recipes", "copy", "digits", "mine.yaml"))
    ok(dmd2("distill", "mine.yaml", *tiny))
    assert (here / "runs" / "mine" / "student" / "model.safetensors").is_file()


def test_two_runs_of_one_recipe_are_the_same_run(dmd2, here, tiny):
    command = json.loads((tiny / "run.json").read_text())["command"].split(" ")[1:-2]
    ok(dmd2(*command, "-o", here / "again"))
    for name in ("student/model.safetensors", "metrics.jsonl"):
        assert (here / "again" / name).read_bytes() == (tiny / name).read_bytes()


def test_a_diverging_run_stops_with_exit_3_and_publishes_nothing_that_is_not_finite(dmd2, here):
    rates = ("student.lr=1.0e+30", "critic.lr=1.0e+30", "run.clip=null", "run.log_every=1", "run.save_every=1")
    done = dmd2("distill", "digits", "run.steps=50", "run.batch=8", "run.threads=1", *rates, "-o", "run")
    assert done.code == 3 and done.out == ""
    said = done.err.splitlines()[-1]
    assert said.startswith("dmd2: diverged: run: 3 updates of the ") and "Traceback" not in done.err
    for file in (here / "run").rglob("*.safetensors"):
        assert all(t.isfinite().all() for t in load_file(file).values()), file


# -- sample ----------------------------------------------------------------------------------------------------


def test_a_grid_has_a_column_and_a_caption_for_every_label(dmd2, tiny):
    labels = "0,1,2,3,4,5,6,7,8,9"
    done = ok(dmd2("sample", "--student", tiny, "--labels", labels, "-n", "100", "--seed", "1", "-o", "grid.png"))
    assert done.out.startswith(f"grid.png: 100 images from {tiny}, 1 network calls each")
    grid = Image.open("grid.png")
    assert grid.size == (10 * (CELL + GAP) + GAP, 10 * (CELL + GAP) + GAP + CAPTION)
    assert (np.asarray(grid.convert("L"))[:CAPTION] < 128).any(axis=0).sum() >= 10


def test_labels_are_repeated_in_turn_and_one_of_each_is_drawn_by_default(dmd2, tiny):
    assert "3 images" in ok(dmd2("sample", "--student", tiny, "--labels", "3,1,4", "-o", "three.png")).out
    ok(dmd2("sample", "--student", tiny, "--labels", "3,1", "-n", "4", "-o", "four"))
    expected = load_student(tiny)(labels=[3, 1, 3, 1])
    drawn = [pixels(f"four/{i:06d}.png") for i in range(4)]
    assert all(a.equal(b) for a, b in zip(drawn, expected, strict=True))


def test_a_folder_gets_one_file_per_image_the_same_that_python_draws(dmd2, tiny, here):
    ok(dmd2("sample", "--student", tiny, "-n", "12", "--seed", "5", "-o", "out"))
    assert sorted(p.name for p in (here / "out").iterdir()) == [f"{i:06d}.png" for i in range(12)]
    student = load_student(tiny)
    for i, image in enumerate(student(n=12, seed=5)):
        assert pixels(here / "out" / f"{i:06d}.png").equal(image)
    assert not student(n=12, seed=6).equal(student(n=12, seed=5))


def test_json_says_what_was_drawn(dmd2, tiny):
    found = json.loads(ok(dmd2("sample", "--student", tiny, "-n", "2", "--seed", "9", "-o", "a.png", "--json")).out)
    assert found.pop("seconds") >= 0
    assert found == {"subject": str(tiny), "n": 2, "seed": 9, "nfe": 1, "out": "a.png"}


@pytest.mark.parametrize("ref", ["", "student", "student/model.safetensors"])
def test_a_student_is_found_by_run_folder_student_folder_and_file(dmd2, tiny, ref):
    ok(dmd2("sample", "--student", tiny / ref, "-n", "3", "-o", "three.png"))
    ok(dmd2("sample", "--student", tiny, "-n", "3", "-o", "same.png"))
    assert pixels("three.png").equal(pixels("same.png"))


def test_the_newest_run_is_taken_and_named_when_none_is_given(dmd2, tiny, two_step, here):
    for name, run, age in (("old", tiny, 100), ("new", two_step, 0)):
        shutil.copytree(run, here / "runs" / name)
        weights = here / "runs" / name / "student" / "model.safetensors"
        os.utime(weights, (1e9 - age, 1e9 - age))
    done = ok(dmd2("sample", "-n", "2", "-o", "two.png"))
    assert done.err == "no subject given: the newest run is runs/new\n" and "2 network calls" in done.out
    assert json.loads(ok(dmd2("eval", "fd-digits", "-n", "20", "--no-baselines")).out)["subject"] == "runs/new"


def test_another_number_of_steps_than_trained_is_drawn_with_a_warning(dmd2, tiny):
    done = ok(dmd2("sample", "--student", tiny, "--steps", "3", "-n", "2", "-o", "a.png"))
    assert done.err == "warning: a 1-step student, drawn in 3 with respaced times\n"
    assert "3 network calls" in done.out


def test_the_teacher_draws_with_its_own_sampler_and_guidance(dmd2):
    for name, more in (("plain", []), ("same", ["--guidance", "1"]), ("strong", ["--guidance", "3"])):
        done = ok(dmd2("sample", "--teacher", "digits", "--steps", "4", "-n", "4", *more, "-o", f"{name}.png"))
        assert "4 images from digits, 7 network calls each" in done.out
    assert pixels("plain.png").equal(pixels("same.png")) and not pixels("plain.png").equal(pixels("strong.png"))


# -- eval ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tiny, dmd2, tmp_path_factory):
    """(what eval printed, what it wrote) for a student with its baselines."""
    file = tmp_path_factory.mktemp("eval") / "fd.json"
    done = ok(dmd2("eval", "fd-digits", "--student", tiny, "-n", "400", "--seed", "7", "--json", file))
    assert done.err == ""
    return json.loads(done.out), json.loads(file.read_text())


def test_a_measurement_has_every_number_with_its_baselines_and_its_protocol(measured, tiny):
    found, written = measured
    assert found == written and found["metric"] == "fd-digits" and found["subject"] == str(tiny)
    assert (found["n"], found["seed"], found["nfe"]) == (400, 7, 1) and found["seconds"] > 0
    numbers = {"value", "precision", "recall", "class_accuracy", "memorisation_ratio"}
    for part in (found, found["baselines"]["teacher"], found["baselines"]["real"]):
        assert numbers <= part.keys() and all(part[k] >= 0 for k in numbers)
    assert found["baselines"]["teacher"]["nfe"] == 7 and "features" in found["protocol"]


def test_an_untrained_student_is_worse_than_its_teacher_and_that_than_real_data(measured):
    student, baselines = measured[0], measured[0]["baselines"]
    assert student["value"] > 1.5 * baselines["teacher"]["value"] > 1.5 * baselines["real"]["value"]
    assert student["recall"] < baselines["real"]["recall"]


def test_the_same_measurement_gives_the_same_number(dmd2, tiny, measured):
    command = ("eval", "fd-digits", "--student", tiny, "-n", "400", "--no-baselines", "--seed")
    again, other = (json.loads(ok(dmd2(*command, seed)).out) for seed in ("7", "8"))
    assert again["value"] == measured[0]["value"] != other["value"] and again["baselines"].keys() == {"real"}


def test_eval_all_measures_what_the_recipe_names(dmd2, tiny):
    found = json.loads(ok(dmd2("eval", "all", "--student", tiny, "-n", "20", "--no-baselines")).out)
    assert [result["metric"] for result in found] == ["fd-digits"]


def test_a_teacher_is_measured_by_its_recipe(dmd2):
    done = ok(dmd2("eval", "fd-digits", "--teacher", "digits", "--steps", "4", "-n", "60", "--json", "t.json"))
    found = json.loads(done.out)
    assert found["nfe"] == 7 and found["subject"] == "digits" and found["class_accuracy"] > 0.9
    assert found == json.loads(Path("t.json").read_text())


# -- export ----------------------------------------------------------------------------------------------------

ALONE = """
import sys
import torch
from safetensors.torch import load_file
example = load_file(sys.argv[2])
expected = example.pop("images")
order = ["noise", "labels", *sorted(k for k in example if k.startswith("renoise"))]
assert sorted(order) == sorted(example), sorted(example)
drawn = torch.export.load(sys.argv[1]).module()(*(example[k] for k in order))
assert not any(name.startswith("dmd2") for name in sys.modules)
assert drawn.dtype == torch.uint8 and drawn.shape == expected.shape == (len(expected), 3, 8, 8)
print(int((drawn.int() - expected.int()).abs().max()))
"""


ONE = pytest.param("tiny", ["noise", "labels"], marks=pytest.mark.slow)


@pytest.mark.parametrize(("run", "arguments"), [ONE, ("two_step", ["noise", "labels", "renoise_1"])])
def test_a_torch_export_draws_the_same_pixels_in_a_process_without_dmd2(dmd2, request, here, run, arguments):
    folder = request.getfixturevalue(run)
    found = json.loads(ok(dmd2("export", folder, "--format", "torch-export", "-o", "s.pt2")).out)
    assert found["file"] == "s.pt2" and found["inputs"] == arguments and found["max_pixel_difference"] <= 1
    example = load_file(here / "s.example.safetensors")
    assert example["images"].equal(load_student(folder)(n=len(example["images"]), seed=1))
    alone = [sys.executable, "-I", "-c", ALONE, "s.pt2", "s.example.safetensors"]
    done = subprocess.run(alone, capture_output=True, text=True, cwd=here)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 1


def test_a_safetensors_export_is_a_student_again(dmd2, two_step):
    found = json.loads(ok(dmd2("export", two_step, "--format", "safetensors", "-o", "out/s.safetensors")).out)
    assert found == {"format": "safetensors", "file": "out/s.safetensors", "max_pixel_difference": 0}
    one, two = (load_student(ref)(n=7, seed=3) for ref in ("out/s.safetensors", two_step))
    assert one.equal(two)
    assert "2 network calls" in ok(dmd2("sample", "--student", "out/s.safetensors", "-n", "2", "-o", "a.png")).out


# -- pretrain --------------------------------------------------------------------------------------------------


def test_pretraining_makes_weights_with_their_provenance_that_a_teacher_loads(dmd2, here):
    small = ("task.channels=[8, 8, 8]", "run.steps=4", "run.batch=8", "run.threads=1", "run.log_every=1")
    done = ok(dmd2("pretrain", "digits-teacher", *small, "-o", "t"))
    assert done.out == "t/weights.safetensors: trained for 4 steps\n"
    recipe = ("teacher.weights=t/weights.safetensors", "run.steps=1", "run.batch=4", "run.threads=1")
    ok(dmd2("distill", "digits", *recipe, "-o", "s"))
    contract = json.loads((here / "s" / "student" / "student.json").read_text())
    assert contract["details"]["channels"] == [8, 8, 8]
    shutil.rmtree(here / "t")
    assert load_student("s")(labels=[3]).shape == (1, 3, 8, 8)


def test_a_pretraining_interrupted_and_continued_ends_as_if_it_were_not(dmd2, here):
    command = ("pretrain", "digits-classifier", "run.steps=8", "run.batch=8", "run.threads=1", "run.save_every=3")
    ok(dmd2(*command, "-o", "whole"))
    ok(dmd2(*command, "run.time_limit=0.00001", "-o", "cut"))
    ok(dmd2(*command, "-o", "cut"))
    whole, cut = (load_file(here / name / "weights.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(whole[k].equal(cut[k]) for k in whole)
    assert (here / "cut" / "metrics.jsonl").read_bytes() == (here / "whole" / "metrics.jsonl").read_bytes()
