"""What `dmd2 demo` promises, run whole: minutes on two cores."""

import json

import pytest

from dmd2cli.demo import demo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "quickstart"
    demo(folder)
    real, teacher, _, student = json.loads((folder / "quickstart.json").read_text())["rows"].values()
    return {"real": real, "teacher": teacher, "student": student}


def test_the_teacher_is_within_one_and_a_half_times_the_floor(rows):
    assert rows["teacher"]["fd_digits"] <= 1.5 * rows["real"]["fd_digits"]


def test_one_network_call_comes_within_three_times_the_teacher_s_thirty_five(rows):
    assert rows["student"]["nfe"] == 1 and rows["teacher"]["nfe"] == 35
    assert rows["student"]["fd_digits"] <= 3 * rows["teacher"]["fd_digits"]


def test_the_student_keeps_the_classes_and_their_variety(rows):
    assert rows["student"]["class_accuracy"] >= 0.98 and rows["student"]["recall"] >= 0.85


def test_neither_teacher_nor_student_copies_the_data(rows):
    assert min(rows[name]["memorisation_ratio"] for name in ("teacher", "student")) >= 0.9


def test_two_other_feature_spaces_agree(rows):
    for real, teacher, student in zip(*(rows[n]["fd_other_classifiers"] for n in rows), strict=True):
        assert teacher <= 1.5 * real and student <= 3 * teacher
