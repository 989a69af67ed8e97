"""Which checkpoints stay: the newest, the best and the milestones, whatever happened before."""

import math
import os

import pytest
from test_checkpoint import holds, refusal, state

from dmd2cli.engine import checkpoint, retention
from dmd2cli.recipe_parts import Keep

LOSS = {10: 0.5, 20: 0.2, 30: 0.4, 40: 0.2, 50: 0.9}
FOUND = {step: {"loss": value} for step, value in LOSS.items()}


@pytest.mark.parametrize(
    ("keep", "steps"),
    [
        (Keep(last=2, best=0), {40, 50}),
        (Keep(last=9), {10, 20, 30, 40, 50}),
        (Keep(last=1, best=1), {50}),                               # without a value to go by there is no best
        (Keep(last=1, best=1, by="loss"), {20, 50}),                # of two equal ones the older
        (Keep(last=1, best=2, by="loss"), {20, 40, 50}),
        (Keep(last=1, best=3, by="loss"), {20, 30, 40, 50}),
        (Keep(last=1, best=0, by="loss"), {50}),
        (Keep(last=1, best=0, every=20), {20, 40, 50}),
        (Keep(last=1, best=1, by="loss", every=30), {20, 30, 50}),
        (Keep(last=1, best=1, by="other"), {50}),
    ],
)
def test_the_newest_the_best_and_the_multiples_stay(keep, steps):
    assert retention.stay(FOUND, keep) == steps


def test_nothing_stays_of_nothing():
    assert retention.stay({}, Keep(by="loss", every=2)) == set() and retention.best({}, "loss") is None


@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf])
def test_a_value_that_is_missing_or_not_finite_is_never_the_best(value):
    found = {10: {"loss": value}, 20: {}, 30: {"loss": 7.0}, 40: {"loss": 8.0}}
    assert retention.best(found, "loss") == 30
    assert retention.stay(found, Keep(last=1, best=4, by="loss")) == {30, 40}


def test_the_best_is_the_lowest_and_of_two_the_older():
    assert retention.best(FOUND, "loss") == 20 and retention.best(FOUND, None) is None


# -- on disk ---------------------------------------------------------------------------------------------------


def run(folder, keep, losses):
    for step, loss in losses.items():
        checkpoint.save(folder, step, state(step), keep, {"loss": loss, "other": 1.0})


def test_the_best_of_a_long_run_outlives_the_newest(tmp_path):
    run(tmp_path, Keep(last=1, by="loss"), LOSS)
    assert checkpoint.steps(tmp_path) == [20, 50] and holds(tmp_path / checkpoint.name(20), 20)
    assert (tmp_path / "best").read_text() == checkpoint.name(20)
    assert (tmp_path / "latest").read_text() == checkpoint.name(50)


def test_what_best_names_is_there_after_every_save(tmp_path):
    for step, loss in LOSS.items():
        run(tmp_path, Keep(last=1, by="loss"), {step: loss})
        assert (tmp_path / (tmp_path / "best").read_text() / "manifest.json").is_file()


@pytest.mark.parametrize("keep", [Keep(last=2), Keep(last=2, best=0, by="loss")])
def test_without_a_value_to_go_by_nothing_is_called_best(tmp_path, keep):
    run(tmp_path, Keep(last=2, by="loss"), {10: 0.5})
    run(tmp_path, keep, {20: 0.2})
    assert not (tmp_path / "best").exists()


def test_a_value_that_is_never_logged_is_refused_with_those_that_are_and_costs_no_step(tmp_path):
    said = refusal(run, tmp_path, Keep(by="lass"), {10: 0.5})
    assert said == "run.keep.by: no logged value is called lass; there are loss, other; step 10 is saved"
    assert holds(tmp_path / checkpoint.name(10), 10)


def test_a_value_that_is_logged_now_and_then_is_not_refused(tmp_path):
    run(tmp_path, Keep(by="loss"), {10: 0.5})
    checkpoint.save(tmp_path, 20, state(20), Keep(by="loss"), {"other": 1.0})
    assert (tmp_path / "best").read_text() == checkpoint.name(10)


def test_a_damaged_one_counts_and_is_never_the_best(tmp_path):
    run(tmp_path, Keep(last=3, by="loss"), {10: 0.5, 20: 0.1})
    os.unlink(tmp_path / checkpoint.name(20) / "manifest.json")
    run(tmp_path, Keep(last=2, by="loss"), {30: 0.7})
    assert (tmp_path / "best").read_text() == checkpoint.name(10) and checkpoint.steps(tmp_path) == [10, 20, 30]


def test_what_is_half_deleted_is_no_checkpoint_any_more(tmp_path, monkeypatch):
    run(tmp_path, Keep(), {10: 0.5, 20: 0.1})
    monkeypatch.setattr(retention.shutil, "rmtree", lambda *a, **k: None)
    retention.drop(tmp_path / checkpoint.name(10))
    assert checkpoint.steps(tmp_path) == [20] and list(tmp_path.glob(".*.gone"))
    monkeypatch.undo()
    retention.tidy(tmp_path)
    assert not list(tmp_path.glob(".*")) and holds(tmp_path / checkpoint.name(20), 20)


def test_one_set_aside_is_put_back_unless_another_took_its_place(tmp_path):
    run(tmp_path, Keep(), {10: 0.5, 20: 0.1})
    os.replace(tmp_path / checkpoint.name(20), tmp_path / f".{checkpoint.name(20)}.old")
    assert checkpoint.newest(tmp_path) == tmp_path / checkpoint.name(20) and holds(tmp_path / checkpoint.name(20), 20)
    (tmp_path / f".{checkpoint.name(20)}.old").mkdir()
    retention.tidy(tmp_path)
    assert not list(tmp_path.glob(".*")) and holds(tmp_path / checkpoint.name(20), 20)
