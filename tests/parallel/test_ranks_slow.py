"""Every kind of recipe on two ranks, and some on four: the same training as in one process."""

import cases
import pytest
import tiny_pipelines
from group import Group, pairs

from dmd2cli.engine.distill import job
from dmd2cli.engine.run import run

pytestmark = pytest.mark.slow
BEGUN = cases.digits("student.times=[1.0, 0.5]", "run.save_every=100")


def test_two_ranks_train_every_kind_of_recipe_as_one_process_does(tmp_path):
    pairs(tmp_path / "data/pairs")
    tiny_pipelines.sd15(tmp_path / "data/sd15")
    tiny_pipelines.sdxl(tmp_path / "data/sdxl")
    run(cases.recipe_of(BEGUN, "none", None, "run.steps=3"), tmp_path / "data/student", job)
    assert Group("SLOW", 2, tmp_path).wrong() == {}


def test_four_ranks_in_two_shards_train_as_one_process_does(tmp_path):
    assert Group("FOUR", 4, tmp_path).wrong() == {}
