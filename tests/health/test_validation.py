"""A metric on a schedule: raw and averaged weights, the best checkpoint, patience, and a run that is continued."""

import json
import math

import pytest
import torch

from dmd2cli import registry
from dmd2cli.engine import checkpoint
from dmd2cli.engine.distill import job
from dmd2cli.engine.run import run
from dmd2cli.errors import UserError
from dmd2cli.recipe import load
from dmd2cli.recipe_build import check
from dmd2cli.recipe_health import SCORE
from dmd2cli.student import load_student

SMALL = ("run.batch=8", "run.log_every=2", "run.save_every=2", "run.preview_every=null", "health.every=null")
VALIDATED = ("health.validation.use=scripted", "health.validation.every=2", "health.validation.n=12")


class Scripted:
    """A metric whose value is the next of a list; it notes the images."""

    name, values, seen = "scripted", [], []

    def __init__(self, direction: str = "lower is better"):
        self.protocol = {"direction": direction}

    def update(self, images, conditions):
        Scripted.seen.append((images, list(conditions)))

    def compute(self):
        return {"value": Scripted.values.pop(0)}

    def real(self, n, seed):
        return {}


@pytest.fixture(autouse=True)
def scripted():
    Scripted.values, Scripted.seen = [], []
    with registry.override("metrics", "scripted", Scripted):
        yield


def trained(folder, *overrides, values, steps=10):
    """A run whose validations give some values: of the published weights and of the raw ones in turn."""
    Scripted.values = [value for value in values for _ in (0, 1)]
    run(load("digits", [*SMALL, *VALIDATED, f"run.steps={steps}", *overrides]), folder, job)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_both_weights_are_measured_on_the_same_noise_and_conditions(tmp_path):
    rows = trained(tmp_path, values=[3.0], steps=2)
    assert rows[-1]["validation/scripted"] == rows[-1]["validation/scripted/raw"] == rows[-1][SCORE] == 3.0
    (averaged, first), (raw, second) = Scripted.seen
    assert averaged.shape == raw.shape == (12, 3, 8, 8) and first == second == [*range(10), 0, 1]
    assert not averaged.equal(raw)


def test_without_a_moving_average_there_is_one_measurement(tmp_path):
    Scripted.values = [3.0]
    run(load("digits", [*SMALL, *VALIDATED, "run.steps=2", "student.ema_halflife_images=null"]), tmp_path, job)
    assert len(Scripted.seen) == 1 and Scripted.values == []


@pytest.mark.parametrize(
    ("direction", "values"), [("lower is better", [5, 2, 3, 4, 6]), ("higher is better", [1, 9, 8, 7, 3])]
)
def test_the_best_checkpoint_and_the_best_student_follow_it(tmp_path, direction, values):
    trained(tmp_path, f"health.validation.direction={direction}", values=[float(v) for v in values])
    assert checkpoint.steps(tmp_path / "checkpoints") == [4, 6, 8, 10]
    assert (tmp_path / "checkpoints" / "best").read_text().strip() == "step-00000004"
    assert load_student(str(tmp_path / "best"), torch.device("cpu")).contract["trained"]["steps"] == 4
    assert load_student(str(tmp_path), torch.device("cpu")).contract["trained"]["steps"] == 10


def test_patience_ends_the_run_with_all_saved_and_the_same_command_trains_no_further(tmp_path, capsys):
    settings = ("health.validation.patience=2",)
    rows = trained(tmp_path, *settings, values=[5.0, 2.0, 3.0, 2.5, 1.0])
    assert rows[-1]["step"] == 8 and checkpoint.steps(tmp_path / "checkpoints")[-1] == 8
    assert "ended at step 8 of 10: the validation got no better (health.validation.patience)" in capsys.readouterr().err
    assert trained(tmp_path, *settings, values=[0.1])[-1]["step"] == 8


def test_a_continued_run_remembers_its_best(tmp_path):
    trained(tmp_path, "health.validation.patience=2", values=[1.0, 2.0], steps=4)
    rows = trained(tmp_path, "health.validation.patience=2", values=[3.0, 0.5], steps=10)
    assert rows[-1]["step"] == 6                                               # one worse before, one after


def test_a_score_that_is_not_finite_is_no_best(tmp_path):
    rows = trained(tmp_path, values=[math.nan, 2.0, math.nan, 3.0, math.nan])
    assert load_student(str(tmp_path / "best"), torch.device("cpu")).contract["trained"]["steps"] == 4
    assert rows[0][SCORE] is None


def test_a_metric_that_is_not_there_is_named_before_anything_is_built():
    with pytest.raises(UserError, match="health.validation: unknown metric 'fd-digit'; did you mean 'fd-digits'"):
        check(load("digits", ["health.validation=fd-digit"]))


def test_it_changes_nothing_of_the_training(tmp_path):
    def weights(name, *overrides):
        run(load("digits", [*SMALL, "run.steps=4", *overrides]), tmp_path / name, job)
        return (tmp_path / name / "student" / "model.safetensors").read_bytes()[-4096:]

    Scripted.values = [1.0] * 9
    assert weights("with", *VALIDATED) == weights("without", "health.validation=null")
