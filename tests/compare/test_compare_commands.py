"""sample, eval, compare and speed as a person runs them, with pipelines, students, images and files of results."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers")

import rivals

from dmd2cli.images import read_note

SPEED = ("--batches", "1,2", "--repeats", "1")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def listed():
    return rivals.prompts(Path("prompts.txt"))


# -- sample ----------------------------------------------------------------------------------------------------


def test_sample_draws_with_a_pipeline_and_draws_the_picture_again(ok, pipe):
    options = ("--pipeline", pipe("sd15"), "--scheduler", "lcm", "--steps", "2", "--guidance", "1", "--seed", "4")
    done = ok("sample", "a photo of llama", *options, "--json", "-o", "x.png")
    facts = json.loads(done.out)
    assert facts["subject"] == pipe("sd15") and facts["nfe"] == 2
    said = json.loads(read_note(Path("x.png")))["drawn"]
    assert said["pipeline"] == pipe("sd15") and said["sampler"] == "LCMScheduler" and said["steps"] == 2
    ok("sample", "--from", "x.png", "-o", "y.png")
    assert np.array_equal(Image.open("x.png"), Image.open("y.png"))
    ok("sample", "--from", "x.png", "--scheduler", "ddim", "-o", "z.png")
    assert not np.array_equal(Image.open("x.png"), Image.open("z.png"))


@pytest.mark.slow
def test_a_folder_of_a_pipeline_is_continued_and_not_mixed(ok, refused, pipe, listed):
    options = ("--pipeline", pipe("sd15"), "--prompts", listed, "--steps", "2", "-o", "out", "--no-grid")
    assert json.loads(ok("sample", *options, "-n", "2", "--batch", "2", "--json").out)["made"] == 2
    assert json.loads(ok("sample", *options, "-n", "4", "--batch", "2", "--json").out)["made"] == 2
    assert "sampler" in refused("sample", *options, "-n", "4", "--batch", "2", "--scheduler", "ddim")


def test_sample_draws_classes_of_a_pipeline(ok, pipe):
    ok("sample", "--pipeline", pipe("dit"), "--labels", "1,999", "--steps", "2", "-o", "x.png")
    assert Image.open("x.png").size[0] > 32


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("a cat", "--sampler", "ddim"), "--sampler: is for students and teachers of ours; name a scheduler"),
        (("a cat", "--vae", "x"), "--vae: is for students and teachers of ours; leave it out"),
        (("a cat", "--init-image", "x.png"), "--init-image: is for students"),
        (("a cat", "--teacher", "digits"), "--teacher and --pipeline exclude each other"),
        (("a cat", "--download"), "--download: is for published students"),
        (("a cat", "--size", "big"), "--size big: expected pixels"),
        ((), "no prompts: these images are drawn from text"),
    ],
)
def test_what_sample_cannot_do_with_a_pipeline_is_one_line(refused, pipe, args, words):
    assert words in refused("sample", *args, "--pipeline", pipe("sd15"))
    assert not Path("samples.png").exists()


@pytest.mark.parametrize("args", [("--lora", "x"), ("--scheduler", "ddim")])
def test_options_of_pipelines_are_refused_for_others(refused, students, args):
    for subject in (("--teacher", "digits"), ("--student", students / "a")):
        assert f"{args[0]}: belongs to --pipeline" in refused("sample", *subject, *args)
        assert f"{args[0]}: belongs to --pipeline" in refused("eval", "fd-digits", *subject, *args)


# -- eval ------------------------------------------------------------------------------------------------------


@pytest.fixture
def real(ok, pipe):
    """A folder of images to compare with."""
    ok("sample", "--pipeline", pipe("dit"), "--steps", "1", "--seed", "9", "-n", "20", "--no-grid", "-o", "real")
    return ("--extractor", "tiny", "--reference", "real", "--allow-small")


def test_eval_measures_a_pipeline_over_seeds(ok, pipe, listed, real):
    options = ("--pipeline", pipe("sd15"), "--steps", "2", "--prompts", listed, "-n", "4", *real)
    done = ok("eval", "fd", *options, "--seeds", "0,3", "--json", "r.json")
    found = json.loads(done.out)
    each = [json.loads(ok("eval", "fd", *options, "--seed", i).out) for i in (0, 3)]
    values = [one["value"] for one in each]
    assert found["value"] == pytest.approx(np.mean(values)) and found["spread"]["each"] == pytest.approx(values)
    assert found["seeds"] == [0, 3] and found["nfe"] == 3 and found["passes"] == 2 and found["size"] == [16, 16]
    assert json.loads(Path("r.json").read_text()) == found
    assert found["baselines"]["real"]["spread"]["std"] > 0
    assert "real data" in done.err and "±" in done.err


def test_eval_all_prints_a_table_with_teacher_and_real_rows(ok, students):
    done = ok("eval", "all", "--student", students / "a", "-n", "10", "--seeds", "0,5")
    head, *rows = done.err.splitlines()
    assert "fd-digits ↓" in head and [row.split("  ")[0] for row in rows[:2]] == ["real data", "teacher"]
    assert len(json.loads(done.out)) == 1


@pytest.mark.parametrize("text", ["1..0", "a", "0,0", "0..5000", "-1", ""])
def test_seeds_that_are_none_are_refused(refused, text):
    assert "--seeds" in refused("eval", "fd-digits", "--teacher", "digits", f"--seeds={text}")


def test_a_pipeline_has_no_recipe_that_names_metrics(refused, pipe):
    assert "has no recipe; name one" in refused("eval", "all", "--pipeline", pipe("ddpm"))
    assert "--pipeline: names nothing" in refused("eval", "fd-digits", "--pipeline", "")


def test_a_seed_and_seeds_exclude_each_other(refused):
    assert "exclude each other" in refused("eval", "fd-digits", "--seed", "1", "--seeds", "0..2")


# -- compare ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_students_their_teacher_and_real_digits_stand_in_one_table(ok, students):
    args = (students / "a", f"{students / 'b'},name=longer", "-n", "12", "--seeds", "0..1")
    done = ok("eval", "compare", *args, "--csv", "t.csv", "--json", "t.json")
    names = [line.split("|")[1].strip() for line in done.out.splitlines() if line.startswith("|")]
    assert names == ["", "---", "real data", f"teacher of {students / 'a'}", str(students / "a"), "longer"]
    table = json.loads(Path("t.json").read_text())
    (column,) = table["columns"]
    assert column["metric"] == "fd-digits" and column["protocol"]["seeds"] == [0, 1]
    rows = list(csv.DictReader(Path("t.csv").read_text().splitlines()))
    assert [row["kind"] for row in rows] == ["real", "teacher", "subject", "subject"]
    assert float(rows[3]["fd-digits value"]) == column["cells"]["longer"]["value"]
    alone = json.loads(ok("eval", "fd-digits", "--student", students / "b", "-n", "12", "--seeds", "0..1").out)
    assert column["cells"]["longer"]["value"] == pytest.approx(alone["value"])
    teacher = f"teacher of {students / 'a'}"
    assert column["cells"][teacher]["value"] == pytest.approx(alone["baselines"]["teacher"]["value"])


def test_results_in_files_stand_beside_what_is_measured(ok, refused, students):
    for n, name in ((10, "same"), (20, "other")):
        options = ("-n", n, "--no-baselines", "--json", f"{name}.json")
        ok("eval", "fd-digits", "--student", students / "b", *options)
    done = ok("eval", "compare", "same.json,name=file", students / "a", "-n", "10", "--no-baselines")
    assert "| file |" in done.out
    line = refused("eval", "compare", "same.json,name=one", "other.json,name=two")
    assert line.startswith("two: fd-digits: n is 20, and 10 for one; measure both alike, or give each a column")
    done = ok("eval", "compare", "same.json,name=one", "other.json,name=two", "--separate")
    assert "fd-digits (1) ↓ | fd-digits (2) ↓" in done.out and "- fd-digits (2): n 20;" in done.out


@pytest.mark.slow
def test_a_pipeline_images_and_a_teacher_are_subjects(ok, pipe, listed, real):
    ok("sample", "--pipeline", pipe("sd15"), "--prompts", listed, "--steps", "1", "--no-grid", "-o", "drawn")
    pipeline = f"pipeline:{pipe('sd15')},scheduler=ddim,steps=2,guidance=1,name=DDIM | 2"
    done = ok("eval", "compare", pipeline, "images:drawn,name=there", "--metrics", "fd,kid", "--prompts", listed,
              "-n", "4", *real, "--json", "t.json")                                                 # fmt: skip
    table = json.loads(Path("t.json").read_text())
    assert [row["name"] for row in table["rows"]] == ["real data", "DDIM | 2", "there"]
    assert "| DDIM \\| 2 | 2 | 1 |" in done.out
    assert [column["metric"] for column in table["columns"]] == ["fd/tiny", "kd/tiny"]


def test_another_size_of_image_is_another_protocol(refused):
    for name, side in (("small", 8), ("large", 16)):
        Path(name).mkdir()
        for i in range(12):
            pixels = np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path(name, f"{i}.png"))
    line = refused("eval", "compare", "images:small", "images:large", "--metrics", "inception-score",
                   "--extractor", "tiny")                                                           # fmt: skip
    assert "size is [16, 16], and [8, 8] for small" in line


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("no-such-run",), "no-such-run: no such run folder"),
        (("images:none",), "images:none: no such file or folder"),
        (("teacher:none.yaml",), "none.yaml: no such file"),
        (("pipeline:./none",), "./none: no such file or folder"),
        (("{a}", "{a}"), "is named twice; tell them apart"),
        (("{a},step=2",), "has no option 'step'; did you mean 'steps'?"),
        (("{a},steps=x",), "steps=x: expected a whole number"),
        (("bad.json",), "bad.json: holds no results"),
        (("{a}", "--csv", "x", "--markdown", "x"), "x: is named for two outputs"),
        (("{a}", "--grid", "x.jpg"), "is a PNG; name a .png file"),
        (("{a}", "--grid", "x.png", "--rows", "0"), "--rows 0: at least 1 is needed"),
        (("images:{a}", "--metrics", "fd-digits,fd-digits"), "named twice"),
        (("{a}", "--metrics", "fidd"), "fidd"),
        (("{a}", "--csv", "bad.json/x"), "cannot be written"),
    ],
)
def test_what_compare_cannot_do_is_one_line_and_writes_nothing(refused, students, args, words):
    Path("bad.json").write_text('{"metric": 3}')
    before = sorted(Path().iterdir())
    assert words in refused("eval", "compare", *(arg.format(a=students / "a") for arg in args))
    assert sorted(Path().iterdir()) == before


def test_subjects_without_a_recipe_need_metrics_by_name(refused, pipe):
    assert "name them: --metrics" in refused("eval", "compare", f"pipeline:{pipe('ddpm')}")


# -- the figure ------------------------------------------------------------------------------------------------


def test_a_grid_alone_measures_nothing(ok, pipe, listed):
    subjects = [f"pipeline:{pipe('sd15')},steps={n},name={n} steps" for n in (1, 2)]
    done = ok("eval", "compare", *subjects, "--grid", "g.png", "--prompts", listed, "--rows", "3")
    assert done.out == "" and "g.png: 2 subjects x 3" in done.err
    width, height = Image.open("g.png").size
    assert height > 3 * 96 and width > 2 * 96


def test_a_grid_of_classes_has_images_that_are_there_beside_them(ok, refused, students):
    ok("sample", "--student", students / "a", "-n", "3", "--no-grid", "-o", "there")
    args = ("eval", "compare", students / "b", "teacher:digits,steps=4", "images:there", "--grid", "g.png")
    ok(*args, "--rows", "3")
    assert "there has 3 images for 4 rows" in refused(*args, "--rows", "4")
    assert "reads no prompts" in refused(*args[:3], "--grid", "g.png", "--prompts", rivals.prompts(Path("p.txt")))


# -- speed -----------------------------------------------------------------------------------------------------


def test_speed_times_a_student_against_its_teacher(ok, students):
    done = ok("eval", "speed", students / "a", *SPEED, "--json", "s.json")
    found = json.loads(done.out)
    assert json.loads(Path("s.json").read_text()) == found and found["hardware"] and found["torch"]
    rows = [(row["subject"], row["batch"]) for row in found["rows"]]
    name = str(students / "a")
    assert rows == [(f"teacher of {name}", 1), (f"teacher of {name}", 2), (name, 1), (name, 2)]
    for row in found["rows"]:
        assert 0 < row["p50_s"] <= row["p90_s"] <= row["p99_s"] and row["images_per_s"] > 0
    first, _, student, _ = found["rows"]
    assert student["times_faster"] == pytest.approx(student["images_per_s"] / first["images_per_s"])
    assert student["nfe"] == 1 and first["times_faster"] == 1
    assert f"x teacher of {name}" in done.err


@pytest.mark.slow
def test_speed_times_pipelines(ok, pipe):
    found = json.loads(ok("eval", "speed", f"pipeline:{pipe('sd15')},steps=2,name=SD", *SPEED).out)
    assert [row["nfe"] for row in found["rows"]] == [3, 3]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--batches", "0"), "--batches 0: expected whole numbers"),
        (("--batches", "1,1"), "--batches 1,1"),
        (("--repeats", "0"), "--repeats 0: at least 1"),
        (("images:.",), "draws nothing"),
        ((), "no run"),
    ],
)
def test_what_speed_cannot_do_is_one_line(refused, args, words):
    assert words in refused("eval", "speed", *args)


# -- the group -------------------------------------------------------------------------------------------------


def test_options_may_stand_before_the_metric_as_ever(ok, students):
    assert json.loads(ok("eval", "--student", students / "a", "-n", "20", "--no-baselines", "fd-digits").out)["n"] == 20


def test_help_names_what_there_is(dmd2):
    assert all(word in dmd2("eval", "--help").out for word in ("METRIC", "compare", "speed"))
    assert "--reference" in dmd2("eval", "fid", "--help").out and "--grid" in dmd2("eval", "compare", "--help").out


@pytest.mark.slow
def test_a_study_of_pipelines_records_the_calls_that_were_counted(ok, pipe, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    arms = ("--a", f"pipeline:{pipe('sd15')},steps=2", "--b", f"pipeline:{pipe('sd15')},steps=3,scheduler=unipc")
    ok("study", "new", *arms, "--prompts", tmp_path / "prompts.txt", "--seeds", "0", "-o", tmp_path / "study")
    found = json.loads((tmp_path / "study" / "study.json").read_text())
    assert [arm["about"]["sampler"]["use"] for arm in found["arms"]] == ["PNDMScheduler", "UniPCMultistepScheduler"]
    assert [arm["about"]["nfe"] for arm in found["arms"]] == [3, 3]             # PNDM repeats a call
