"""dmd2 study new: which image is of which prompt, what is written, and what is refused in one line."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from studies import TEXTS, files, folder, numbered, picture

from dmd2cli.cli import study_arms
from dmd2cli.errors import UserError
from dmd2cli.study.arms import Drawn
from dmd2cli.study.make import make
from dmd2cli.study.set import image_file, load


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return path


def colour(study, arm, item):
    return Image.open(image_file(study, arm, item)).getpixel((0, 0))


def test_two_folders_and_a_list_of_prompts_become_a_study(dmd2, tmp_path, prompts):
    a, b = numbered(tmp_path / "A", 3, 1), numbered(tmp_path / "B", 3, 2)
    code, out, _ = dmd2("study", "new", "--a", a, "--b", b, "--prompts", prompts, "-o", tmp_path / "s")
    found = load(tmp_path / "s")
    assert code == 0 and "3 pairs of A and B, 2 questions each" in out
    assert [item.text for item in found.items] == list(TEXTS) and found.questions == ["quality", "alignment"]
    assert found.protocol["prompts"]["sha256"] == hashlib.sha256(prompts.read_bytes()).hexdigest()
    assert colour(tmp_path / "s", 1, 2) == Image.open(b / "000002.png").getpixel((0, 0))
    for k, arm in enumerate(found.arms):
        raw = [image_file(tmp_path / "s", k, item).read_bytes() for item in range(3)]
        assert [hashlib.sha256(one).hexdigest() for one in raw] == list(arm.images)


def test_images_are_written_anew_without_what_foreign_files_carry(tmp_path):
    note = "<script>" * 20
    picture(tmp_path / "a/0.jpg", "red", comment=note.encode(), quality=95)
    with (picture(tmp_path / "b/0.gif", "blue")).open("ab") as file:
        file.write(note.encode())
    make(tmp_path / "s", [files(tmp_path / "a"), files(tmp_path / "b")], ["x"])
    written = [path.read_bytes() for path in sorted((tmp_path / "s/images").rglob("*.*"))]
    assert len(written) == 2 and all(raw.startswith(b"\x89PNG") and note.encode() not in raw for raw in written)


def test_a_photograph_stands_as_its_camera_says(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(tmp_path / "a/0.jpg", "red", size=(20, 10), exif=turned)
    make(tmp_path / "s", [files(tmp_path / "a"), files(numbered(tmp_path / "b", 1))], ["x"])
    assert Image.open(image_file(tmp_path / "s", 0, 0)).size == (10, 20)


@pytest.mark.parametrize("names", [["1.png", "2.png", "3.png"], ["img_0.png", "img_1.png", "img_2.png"]])
def test_numbers_run_from_0_or_1_whatever_stands_before_them(tmp_path, names):
    make(tmp_path / "s", [files(folder(tmp_path / "a", names)), files(numbered(tmp_path / "b", 3, 1))], list(TEXTS))
    assert [colour(tmp_path / "s", 0, i) for i in range(3)] == [
        Image.open(tmp_path / "a" / name).getpixel((0, 0)) for name in names
    ]


def test_numbers_sort_as_numbers(tmp_path):
    folder(tmp_path / "a", [f"{i}.png" for i in range(12)])
    make(tmp_path / "s", [files(tmp_path / "a"), files(numbered(tmp_path / "b", 12, 1))], [])
    assert colour(tmp_path / "s", 0, 10) == Image.open(tmp_path / "a/10.png").getpixel((0, 0))


def test_several_images_of_each_prompt_come_in_rounds(tmp_path):
    study = make(tmp_path / "s", [files(numbered(tmp_path / x, 6)) for x in "ab"], list(TEXTS), [4, 9])
    assert [(item.text, item.seed) for item in study.items] == [(text, seed) for seed in (4, 9) for text in TEXTS]


def test_files_named_after_their_prompts_are_found_by_them(tmp_path):
    names = ["An_Owl, oil painting.png", "the word hi b in b snow.PNG", "a llama.jpeg"]
    make(tmp_path / "s", [files(folder(tmp_path / "a", names)), files(numbered(tmp_path / "b", 3))], list(TEXTS))
    assert colour(tmp_path / "s", 0, 1) == Image.open(tmp_path / "a" / names[0]).getpixel((0, 0))


def test_without_prompts_images_of_one_name_are_paired_and_only_quality_is_asked(tmp_path):
    for seed, arm in enumerate("ab"):
        folder(tmp_path / arm, ["früh.png", "spät 1.png", "x/früh.png"], seed)
    study = make(tmp_path / "s", [files(tmp_path / "a"), files(tmp_path / "b")], [])
    assert study.questions == ["quality"] and len(study.items) == 3
    assert colour(tmp_path / "s", 1, 2) == Image.open(tmp_path / "b/x/früh.png").getpixel((0, 0))


def test_classes_of_images_are_the_text(tmp_path):
    for seed, arm in enumerate("ab"):
        folder(tmp_path / arm, ["cat/0.png", "dog/1.png"], seed)
    study = make(tmp_path / "s", [files(tmp_path / "a"), files(tmp_path / "b")], [])
    assert [item.text for item in study.items] == ["cat", "dog"]


def test_what_draws_gets_the_prompts_and_seeds_of_the_items(tmp_path):
    def draw(raw, seed):
        asked.extend(zip(raw, seed, strict=True))
        return (np.full((4, 4, 3), len(text), np.uint8) for text in raw)

    asked = []
    arms = [Drawn("drawn", {}, draw), files(numbered(tmp_path / "a", 6))]
    make(tmp_path / "s", arms, list(TEXTS), [7, 8])
    assert asked == [(text, seed) for seed in (7, 8) for text in TEXTS]
    assert colour(tmp_path / "s", 0, 1) == (len(TEXTS[1]),) * 3


def test_a_student_without_prompts_draws_its_classes_in_turn(tmp_path):
    drawn = [Drawn(x, {}, lambda raw, seed: (np.zeros((2, 2, 3), np.uint8) for _ in raw), [0, 1], False) for x in "ab"]
    study = make(tmp_path / "s", drawn, [], None, 5)
    assert [item.text for item in study.items] == ["0", "1", "0", "1", "0"]


def test_three_arms_make_every_pair(tmp_path):
    study = make(tmp_path / "s", [files(numbered(tmp_path / x, 2)) for x in "abc"], ["x", "y"])
    assert study.pairs == 6 and {(p.first, p.second) for p in map(study.pair, range(6))} == {(0, 1), (0, 2), (1, 2)}


def test_help_imports_no_torch():
    run = "app(['study', 'new', '--help'], standalone_mode=False)"
    code = f"import sys; from dmd2cli.cli.app import app; {run}; assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code]
    assert "--more" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


# -- what is refused -------------------------------------------------------------------------------------------


def refusal(tmp_path, arms, texts=(), *rest):
    with pytest.raises(UserError) as err:
        make(tmp_path / "s", arms, list(texts), *rest)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".s", "s"))]
    return str(err.value)


def test_too_few_images_for_the_prompts_are_refused_and_nothing_is_left(tmp_path):
    arms = [files(numbered(tmp_path / "a", 3)), files(numbered(tmp_path / "b", 2))]
    assert refusal(tmp_path, arms, TEXTS) == "'b': 2 images for 3 prompts; expected 3 or a multiple"


def test_a_gap_in_the_numbers_is_named(tmp_path):
    arms = [files(folder(tmp_path / "a", ["0.png", "1.png", "3.png"])), files(numbered(tmp_path / "b", 3))]
    assert "'a': no image number 2" in refusal(tmp_path, arms, TEXTS)


def test_a_prompt_without_a_file_is_named(tmp_path):
    arms = [files(folder(tmp_path / "a", ["x.png", "a llama.png", "y.png"])), files(numbered(tmp_path / "b", 3))]
    assert "'a': no image of 'an owl, oil painting'" in refusal(tmp_path, arms, TEXTS)


def test_an_image_that_only_one_arm_has_is_named(tmp_path):
    arms = [files(folder(tmp_path / x, ["cat.png", last])) for x, last in (("a", "dog.png"), ("b", "cow.png"))]
    assert "'b': no image called dog, which 'a' has" in refusal(tmp_path, arms)


def test_classes_that_differ_are_named(tmp_path):
    named = (("a", ["u/0.png", "v/1.png"]), ("b", ["v/0.png", "u/1.png"]))
    arms = [files(folder(tmp_path / x, names)) for x, names in named]
    assert "image 0 is of class u in 'a' and v in 'b'" in refusal(tmp_path, arms)


def test_a_damaged_image_is_named_and_nothing_is_left(tmp_path):
    arms = [files(numbered(tmp_path / x, 2)) for x in "ab"]
    (tmp_path / "b/000001.png").write_bytes(b"")
    assert "000001.png: not a whole image" in refusal(tmp_path, arms)


def test_an_image_that_nobody_could_load_is_refused(tmp_path):
    picture(tmp_path / "a/0.png", "red", size=(5000, 2))
    assert "5000 x 2 pixels" in refusal(tmp_path, [files(tmp_path / "a"), files(numbered(tmp_path / "b", 1))])


def test_what_reads_no_prompts_is_refused_with_prompts_and_the_other_way_round(tmp_path):
    classes, prompts = Drawn("c", {}, None, [0], False), Drawn("p", {}, None)
    assert "reads no prompts" in refusal(tmp_path, [classes, prompts], TEXTS)
    assert "give --prompts" in refusal(tmp_path, [classes, prompts])


def test_nothing_is_overwritten(dmd2, tmp_path, study):
    before = (study / "study.json").read_bytes()
    code, _, err = dmd2("study", "new", "--a", tmp_path / "arms/one", "--b", tmp_path / "arms/two", "-o", study)
    assert code == 2 and "exists already" in err and (study / "study.json").read_bytes() == before


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--a", "no/such"], "no/such: no such folder of images, run or student"),
        (["--a", "one"], "a study compares two arms or more"),
        (["--a", "one", "--b", "one"], "two arms are called 'one'"),
        (["--a", "one", "--more", "two"], "--more two: expected NAME=DIR"),
        (["--a", "one", "--name-b", "x"], "--name-b: belongs to --b"),
        (["--a", "one", "--b", "two", "--name-a", "x\ny"], "a name is one line"),
        (["--a", "one", "--b", "empty"], "empty: no images in it"),
        (["--a", "one", "--b", "two", "--prompts", "none.txt"], "none.txt: no such file"),
        (["--a", "one", "--b", "two", "--seeds", "x"], "--seeds x: seeds are whole numbers"),
        (["--a", "one", "--b", "two", "-n", "0"], "-n 0: must be at least 1"),
        (["--a", "one", "--b", "two", "-n", "3"], "-n 3: the images or prompts"),
    ],
)  # fmt: skip
def test_bad_options_are_one_line(dmd2, tmp_path, monkeypatch, args, said):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        numbered(tmp_path / name, 3)
    (tmp_path / "empty").mkdir()
    code, out, err = dmd2("study", "new", *args)
    assert (code, out) == (2, "") and said in err and err.count("\n") == 1
    assert not (tmp_path / "study").exists()


def test_a_run_is_taken_for_its_student(dmd2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.yaml").write_text("")
    code, _, err = dmd2("study", "new", "--a", "run", "--b", "run", "--name-b", "again")
    assert code == 2 and "no student yet" in err


def test_arms_are_called_after_their_folders_and_by_their_paths_where_these_are_alike():
    two = study_arms.wanted((("a", "x/run", None), ("b", "y/run", "mine")), ["z=w/run"], ["sdxl-4step"])
    assert two == [("x/run", "x/run"), ("mine", "y/run"), ("z", "w/run"), ("sdxl-4step", "sdxl-4step")]


def test_study_json_that_was_tampered_with_is_refused_in_one_line(dmd2, study):
    said = json.loads((study / "study.json").read_text())
    for change in ({"arms": said["arms"][:1]}, {"items": []}, {"format": 9}, {"questions": ["which?"]}, {"id": 3}):
        (study / "study.json").write_text(json.dumps(said | change))
        code, _, err = dmd2("study", "results", study)
        assert code == 2 and "study.json: damaged" in err and err.count("\n") == 1
