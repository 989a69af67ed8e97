"""`dmd2 eval` with prompts: lists, captions, recipes; which image is drawn for which; what is refused in one line."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_clip
import tiny_pipelines
import torch
from dmd2_plugins.metrics.clip_score import ClipScore
from dmd2_plugins.metrics.diversity import ByPrompt
from dmd2_plugins.metrics.tiny import Tiny
from pictured import pictures, save
from tiny_students import student

from dmd2cli.cli import app
from dmd2cli.frechet import distance
from dmd2cli.student import load_student, save_student
from dmd2cli.views import square

PROMPTS = ["a red cat", "a llama wearing sunglasses", "a handwritten three"]
TEACHER = """\
teacher: {{use: sd15, model: {model}}}
student: {{lr: 1.0e-4}}
critic: {{lr: 1.0e-4}}
losses: {{distribution_matching: {{}}, denoising: {{}}}}
sampler: {{use: ddim, steps: 2}}
run: {{steps: 1, batch: 2, threads: 1}}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_pipelines.sd15(tmp_path_factory.mktemp("sd15") / "pipe"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(tiny_clip.saved(tmp_path_factory.mktemp("clip") / "tiny"))


@pytest.fixture(scope="module")
def text(tmp_path_factory, model):
    """A two-step student that reads prompts, in a folder."""
    folder, made = tmp_path_factory.mktemp("text") / "run", student(model, "sd15", (1.0, 0.5))
    save_student(folder / "student", made.source.network, dict(made.contract))
    return str(folder)


@pytest.fixture
def listed(tmp_path):
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS))
    return str(tmp_path / "p.txt")


@pytest.fixture
def real(tmp_path):
    return str(save(pictures(9, seed=5, side=16), tmp_path / "real"))


def drawn(ref, raw, seed=0):
    return load_student(ref).source.images(raw, seed)


SMALL = ("--extractor", "tiny", "--allow-small", "--no-baselines")


# -- drawing for prompts ---------------------------------------------------------------------------------------


def test_images_are_drawn_for_every_prompt_and_the_list_is_in_the_protocol(measured, text, listed, clip):
    found = measured("clip-score", "--student", text, "--prompts", listed, "--model", clip, "--seed", 4)
    images, metric = drawn(text, PROMPTS, 4), ClipScore("paper", clip)
    metric.update(images, PROMPTS)
    assert found["value"] == pytest.approx(metric.compute()["value"], abs=1e-6)
    assert found["metric"] == "clip-score/paper-tiny" and found["n"] == 3
    digest = hashlib.sha256(Path(listed).read_bytes()).hexdigest()
    assert found["protocol"]["prompts"] == {"path": listed, "sha256": digest, "count": 3, "per_prompt": 1}
    assert found["baselines"]["teacher"]["value"] != found["value"]


def test_k_images_of_a_prompt_come_one_after_another(measured, text, listed, clip):
    found = measured("clip-score", "--student", text, "--prompts", listed, "--model", clip, "--per-prompt", 2,
                     "--no-baselines")  # fmt: skip
    raw = [prompt for prompt in PROMPTS for _ in range(2)]
    metric = ClipScore("paper", clip)
    metric.update(drawn(text, raw), raw)
    assert found["n"] == 6 and found["value"] == pytest.approx(metric.compute()["value"], abs=1e-6)
    assert found["protocol"]["prompts"]["per_prompt"] == 2 and found["diversity"]["student"] > 0


def test_diversity_draws_four_of_each_unless_told(measured, text, listed):
    found = measured("diversity", "--student", text, "--prompts", listed, "--extractor", "tiny", "--no-baselines")
    raw, metric = [prompt for prompt in PROMPTS for _ in range(4)], ByPrompt(extractor="tiny")
    metric.update(drawn(text, raw), raw)
    assert found["n"] == 12 and found["prompts"] == 3 and found["protocol"]["prompts"]["per_prompt"] == 4
    assert found["value"] == pytest.approx(metric.compute()["value"], rel=1e-4)
    two = measured("diversity", "--student", text, "--prompts", listed, "--extractor", "tiny", "--per-prompt", 2,
                   "--no-baselines")  # fmt: skip
    assert two["n"] == 6 and two["protocol"]["images"].startswith("2 of each prompt, all 1 pairs")


@pytest.mark.parametrize(("n", "count"), [(2, 2), (5, 5)])
def test_n_is_the_first_so_many_and_goes_round(measured, text, listed, clip, n, count):
    found = measured("clip-score", "--student", text, "--prompts", listed, "--model", clip, "-n", n, "--no-baselines")
    raw, metric = (PROMPTS * 2)[:n], ClipScore("paper", clip)
    metric.update(drawn(text, raw), raw)
    assert found["n"] == count and found["value"] == pytest.approx(metric.compute()["value"], abs=1e-6)


def test_the_coco_protocol_end_to_end_in_a_small_space(measured, text, listed, real):
    found = measured("fid", "--protocol", "coco-256", "--reference", real, "--student", text, "--prompts", listed,
                     "--per-prompt", 3, *SMALL)  # fmt: skip
    raw, view = [prompt for prompt in PROMPTS for _ in range(3)], square(256)
    x, y = (Tiny()(view(images)).vectors for images in (drawn(text, raw), pictures(9, seed=5, side=16)))
    assert found["value"] == pytest.approx(distance(x, y), rel=1e-4) and found["metric"] == "fd/coco-256/tiny"
    assert found["protocol"]["departs"] == ["9 samples, not 30,000", "9 reference images, not 40,504"]
    patches = measured("patch-fid", "--reference", real, "--student", text, "--prompts", listed, *SMALL)
    assert patches["metric"] == "patch-fd/299/tiny" and patches["protocol"]["measured_at"] == {"16 x 16": 3}


def test_columns_and_cocos_captions_are_read(measured, text, clip, tmp_path):
    (tmp_path / "PartiPrompts.tsv").write_text("Prompt\tCategory\nbond\tAbstract\na chair\tArtifacts\n")
    args = ("clip-score", "--student", text, "--model", clip, "--no-baselines", "--prompts")
    found = measured(*args, tmp_path / "PartiPrompts.tsv", "--column", "Prompt")
    assert found["protocol"]["prompts"]["count"] == 2 == found["n"]
    assert found["protocol"]["prompts"]["column"] == "Prompt"
    captions = [{"image_id": 7, "id": i, "caption": f"caption {i}"} for i in range(5)]
    coco = {"images": [{"id": 7, "file_name": "7.jpg"}], "annotations": captions}
    (tmp_path / "captions_val2014.json").write_text(json.dumps(coco))
    assert measured(*args, tmp_path / "captions_val2014.json")["n"] == 1


# -- whose prompts ---------------------------------------------------------------------------------------------


def recipe(path, model, more=""):
    path.write_text(TEACHER.format(model=model) + more)
    return str(path)


def test_a_teacher_is_measured_with_the_prompts_of_its_recipe(dmd2, model, clip, tmp_path):
    path = recipe(tmp_path / "r.yaml", model, "data: {prompts: {use: prompts, texts: [a cat, a dog]}}\n")
    code, out, err = dmd2("eval", "clip-score", "--teacher", path, "--model", clip)
    assert code == 0 and f"no prompts given: the 2 of data.prompts in {path}" in err
    found = json.loads(out)
    assert found["n"] == 2 and found["protocol"]["prompts"]["path"] == f"data.prompts of {path}"


def test_all_metrics_have_the_prompts_that_the_recipe_gives_them(measured, model, clip, listed, tmp_path):
    (tmp_path / "other.txt").write_text("a cat\na dog")
    more = "\n".join([
        "metrics:",
        f"  - {{use: clip-score, model: {clip}, prompts: {listed}}}",
        f"  - {{use: diversity, extractor: tiny, prompts: {tmp_path / 'other.txt'}}}",
        f"  - {{use: clip-score, model: {clip}, protocol: plain, prompts: {listed}}}",
        f"  - {{use: clip-score, model: {clip}, prompts: {listed}, per_prompt: 2}}",
        "",
    ])  # fmt: skip
    path = recipe(tmp_path / "r.yaml", model, more)
    found = measured("all", "--teacher", path)
    assert [(f["metric"], f["n"], f["protocol"]["prompts"]["count"]) for f in found] == [
        ("clip-score/paper-tiny", 3, 3), ("diversity/tiny", 8, 2), ("clip-score/plain-tiny", 3, 3),
        ("clip-score/paper-tiny", 6, 3),
    ]  # fmt: skip
    (tmp_path / "mine.txt").write_text("a llama")
    found = measured("all", "--teacher", path, "--prompts", tmp_path / "mine.txt")
    assert [f["n"] for f in found] == [1, 4, 1, 2]


def test_a_recipe_whose_metrics_name_prompts_is_one_to_train_with(model, listed, tmp_path):
    from dmd2cli.engine.distill import job
    from dmd2cli.errors import UserError
    from dmd2cli.recipe import load

    more = f"data: {{prompts: {{use: prompts, path: {listed}}}}}\n" + (
        f"metrics: [{{use: diversity, extractor: tiny, prompts: {listed}, per_prompt: 3}}]\n"
    )
    job(load(recipe(tmp_path / "r.yaml", model, more)), torch.device("cpu")).publish(tmp_path / "run", 0)
    assert load_student(tmp_path / "run").contract["metrics"][0]["prompts"] == listed
    with pytest.raises(UserError, match="prompt: unknown"):
        wrong = recipe(tmp_path / "w.yaml", model, more.replace(f", prompts: {listed}, per", ", prompt: x, per"))
        job(load(wrong), torch.device("cpu"))


def test_teachers_of_labels_refuse_prompts_and_metrics_of_prompts(refused, listed, clip):
    teacher = ("--teacher", "digits", "--steps", 2)
    assert refused("fd-digits", *teacher, "--prompts", listed) == (
        "--prompts: digits reads class labels, no prompts; leave --prompts out"
    )
    said = refused("fd-digits", *teacher, "--per-prompt", 2)
    assert said == "--per-prompt 2: digits reads no prompts; leave it out"
    said = refused("clip-score", *teacher, "--model", clip)
    assert said == "clip-score/paper-tiny: compares images with prompts, and digits reads class labels; drop it"


def test_diversity_of_labels_needs_no_prompts(measured):
    found = measured("diversity", "--teacher", "digits", "--steps", 2, "--extractor", "tiny", "-n", 80)
    assert found["prompts"] == 20 and "prompts" not in found["protocol"]


@pytest.mark.parametrize("metric", [("fd", *SMALL[:3], "--reference", "{real}"), ("clip-score", "--model", "{clip}")])
def test_a_teacher_of_prompts_without_any_draws_nothing(refused, text, real, clip, metric):
    said = refused(*(part.format(real=real, clip=clip) for part in metric), "--student", text)
    assert f"{text} reads prompts; name a list of them: --prompts FILE (a .txt, .jsonl, .csv" in said


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--prompts", "gone.txt"], "gone.txt: no such file; expected a list of prompts"),
        (["--prompts", "{empty}"], "no prompts in it"),
        (["--prompts", "{list}", "--column", "x"], "a text file has no column x; leave it out"),
        (["--prompts", "{list}", "--per-prompt", "0"], "--per-prompt 0: at least 1 image of each prompt is needed"),
        (["--column", "x"], "--column x: of which file? name it with --prompts"),
        (["--prompts", "{list}", "-n", "0"], "-n 0: at least 1 image is needed"),
        (["--prompts", "{list}", "--extractor", "tiny"], "--extractor: metric 'clip-score' does not take it"),
    ],
)
def test_wishes_that_cannot_be_had_are_refused_before_anything_is_loaded(refused, listed, tmp_path, clip, args, said):
    (tmp_path / "empty.txt").write_text("\n \n")
    args = [arg.format(list=listed, empty=tmp_path / "empty.txt") for arg in args]
    assert said in refused("clip-score", "--student", "no-such-student", "--model", clip, *args)


def test_a_protocols_count_is_asked_for_before_anything_is_loaded(refused, listed, real):
    args = ("fid", "--protocol", "coco-256", "--extractor", "tiny", "--student", "no-such-student", "--reference", real)
    assert "3 samples, not 30,000 and 9 reference images, not 40,504" in refused(*args, "--prompts", listed)


# -- images that are there -------------------------------------------------------------------------------------


def captioned(folder, n=6):
    save(pictures(n, seed=2, side=16), folder)
    rows = [json.dumps({"file_name": f"{i:05}.png", "text": PROMPTS[i % 3], "other": f"o{i}"}) for i in range(n)]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


def score(clip, prompts, n=6):
    metric = ClipScore("paper", clip)
    metric.update(pictures(n, seed=2, side=16)[: len(prompts)], prompts)
    return pytest.approx(metric.compute()["value"], abs=1e-6)


def test_images_have_the_captions_beside_them(measured, clip, tmp_path):
    folder = captioned(tmp_path / "x")
    args = ("clip-score", "--images", folder, "--model", clip)
    found = measured(*args)
    assert found["value"] == score(clip, PROMPTS * 2) and found["n"] == 6
    about = found["protocol"]["prompts"]
    assert about["of"] == "captions" and about["path"] == str(folder) and about["count"] == 6
    assert about["sha256"] == hashlib.sha256("\0".join(PROMPTS * 2).encode()).hexdigest()
    assert measured(*args, "--column", "other")["value"] == score(clip, [f"o{i}" for i in range(6)])
    assert measured(*args, "-n", 2)["value"] == score(clip, PROMPTS[:2])


def test_or_those_of_a_list_one_after_another(measured, refused, clip, tmp_path, listed):
    folder = captioned(tmp_path / "x")
    args = ("clip-score", "--images", folder, "--model", clip, "--prompts", listed)
    found = measured(*args, "--per-prompt", 2)
    assert found["value"] == score(clip, [p for p in PROMPTS for _ in range(2)])
    assert found["protocol"]["prompts"]["path"] == listed
    assert refused(*args).endswith("6 images, and " + listed + " has 3 prompts x 1; they must be as many")
    assert measured(*args, "-n", 3)["n"] == 3


def test_diversity_of_images_goes_by_captions_then_labels_and_not_by_nothing(measured, refused, tmp_path):
    args = ("diversity", "--extractor", "tiny", "--per-prompt", 2, "--images")
    assert measured(*args, captioned(tmp_path / "x"))["prompts"] == 3
    np.savez(tmp_path / "x.npz", images=pictures(8, side=16).permute(0, 2, 3, 1).numpy(), labels=np.arange(8) % 2)
    assert measured(*args, tmp_path / "x.npz")["prompts"] == 4
    said = refused(*args, save(pictures(4, side=16), tmp_path / "plain"))
    assert "has neither captions nor labels; say them: --prompts FILE" in said


def test_images_of_a_metric_of_prompts_need_captions(refused, clip, tmp_path):
    folder = save(pictures(4, side=16), tmp_path / "plain")
    assert "no captions: neither metadata.jsonl" in refused("clip-score", "--images", folder, "--model", clip)


def test_images_of_several_sizes_are_measured_where_the_protocol_makes_them_one(measured, refused, tmp_path, real):
    folder = save(pictures(3, side=20), tmp_path / "x")
    save(pictures(1, side=30), folder)
    args = ("--images", folder, "--reference", real, "--extractor", "tiny", "--allow-small")
    assert measured("fid", "--protocol", "coco-256", *args)["protocol"]["measured_at"] == {"256 x 256": 3}
    assert "make them one size first" in refused("fd", *args)


def test_what_dmd2_sample_drew_knows_its_prompts(measured, text, clip, tmp_path, listed, monkeypatch):
    args = ["sample", *PROMPTS, "--student", text, "-o", str(tmp_path / "d"), "--no-grid"]
    monkeypatch.setattr(sys, "argv", ["dmd2", *args])
    with pytest.raises(SystemExit, match="^0?$"):
        app.main()
    found = measured("clip-score", "--images", tmp_path / "d", "--model", clip)
    again = measured("clip-score", "--student", text, "--prompts", listed, "--model", clip, "--no-baselines")
    assert found["value"] == pytest.approx(again["value"], abs=1e-6)
