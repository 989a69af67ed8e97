"""`dmd2 demo`, whole, at the smallest size that still is the same thing."""

import json

import pytest
from PIL import Image

from dmd2cli import demo


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "quickstart"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "N", 1800)
        patch.setattr(demo, "SEEDS", (7, 8))
        patch.setattr(demo, "CLASSIFIERS", (0, 1))
        demo.demo(out, ["run.steps=5", "run.batch=16", "sampler.steps=4", "run.threads=1"])
    return out


def test_the_table_has_a_row_for_real_teacher_and_student_with_what_fd_is_blind_to(folder):
    rows = json.loads((folder / "quickstart.json").read_text())["rows"]
    assert [row["nfe"] for row in rows.values()] == [0, 7, 1, 1]
    for row in rows.values():
        assert {"fd_digits_std", "precision", "recall", "class_accuracy", "memorisation_ratio"} <= row.keys()
        assert len(row["fd_other_classifiers"]) == 1 and row["fd_digits"] > 0
        assert row["nfe"] == 0 or row["diversity"] > 0


def test_an_untrained_student_is_far_from_the_floor(folder):
    rows = list(json.loads((folder / "quickstart.json").read_text())["rows"].values())
    assert rows[-1]["fd_digits"] > 5 * rows[0]["fd_digits"]


def test_the_picture_shows_three_strips_of_twenty_digits(folder):
    picture = Image.open(folder / "quickstart.png")
    assert picture.width == 10 * 50 + 2 and picture.height > 3 * 2 * 50
    assert len(picture.getcolors(1 << 16) or ()) > 20


def test_a_second_demo_reuses_the_finished_run(folder, capsys):
    before = (folder / "metrics.jsonl").read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "N", 1800)
        patch.setattr(demo, "SEEDS", (7, 8))
        patch.setattr(demo, "CLASSIFIERS", (0,))
        demo.demo(folder, ["run.steps=5", "run.batch=16", "sampler.steps=4", "run.threads=1"])
    assert (folder / "metrics.jsonl").read_text() == before
    assert "dmd2 sample --student" in capsys.readouterr().out
