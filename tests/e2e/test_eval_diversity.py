"""`dmd2 eval` reports diversity whatever the metric, with the teacher's beside it."""

import json

import pytest
import torch

from dmd2cli.diversity import diversity
from dmd2cli.student import load_student


def evaluated(dmd2, *args):
    done = dmd2("eval", *args)
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_a_student_is_told_its_diversity_the_teachers_and_their_ratio(dmd2, tiny):
    found = evaluated(dmd2, "fd-digits", "--student", tiny, "-n", "60", "--seed", "7")["diversity"]
    source = load_student(tiny, torch.device("cpu")).source
    raw = source.conditions(60)
    assert found["student"] == pytest.approx(diversity(source.images(raw, 7), raw), rel=1e-6)
    assert found["teacher"] > 0.2 and found["ratio"] == pytest.approx(found["student"] / found["teacher"])
    assert found["ratio"] < 0.9


def test_without_baselines_and_of_all_metrics_there_is_its_own(dmd2, tiny):
    (found,) = evaluated(dmd2, "all", "--student", tiny, "-n", "20", "--no-baselines")
    assert found["diversity"].keys() - {"real"} == {"student"}


def test_a_teacher_as_the_subject_is_called_one(dmd2):
    found = evaluated(dmd2, "fd-digits", "--teacher", "digits", "--steps", "4", "-n", "20")
    assert found["diversity"].keys() - {"real"} == {"teacher"}
