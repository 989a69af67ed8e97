"""A run in its folder: where it starts, which recipe may continue it, and what it records."""

import json

import pytest
from jobs import Walk

from dmd2cli.engine import checkpoint
from dmd2cli.engine.run import run
from dmd2cli.errors import UserError
from dmd2cli.recipe import PretrainRecipe, differences, load

BASE = (
    "run.steps=8", "run.batch=4", "run.save_every=4", "run.log_every=2", "run.preview_every=100", "run.threads=1",
    "run.device=cpu",
)  # fmt: skip


def recipe(*changes):
    return load("digits", [*BASE, *changes])


@pytest.fixture
def go(tmp_path):
    """Train the recipe, with changes, in a folder below tmp_path; returns (steps done, job or None)."""

    def go(*changes, folder="run", resume="auto"):
        jobs = []

        def job(asked, device, world, fresh):
            jobs.append(Walk())
            return jobs[-1]

        done = run(recipe(*changes), tmp_path / folder, job, resume, command="dmd2 distill digits")
        return done, (jobs or [None])[0]

    return go


def refusal(go, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        go(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_records_its_recipe_its_command_and_what_it_ran_on(go, tmp_path):
    assert go()[0] == 8
    held = json.loads((tmp_path / "run" / "run.json").read_text())
    assert held["command"] == "dmd2 distill digits" and held["seed"] == 0
    assert held["hardware"]["device"] == "cpu" and {"dmd2cli", "torch", "python"} <= held["versions"].keys()
    assert load(tmp_path / "run" / "recipe.yaml").model_dump() == recipe().model_dump()


def test_a_finished_run_builds_nothing_and_returns_its_steps(go):
    go()
    assert go() == (8, None)


def test_a_finished_run_with_a_damaged_checkpoint_is_not_called_finished(go, tmp_path, capsys):
    go()
    folder = tmp_path / "run" / "checkpoints"
    (checkpoint.latest(folder) / "manifest.json").unlink()
    done, job = go()
    assert done == 8 and job.when("step")[-1] == 8 and "manifest.json is missing" in capsys.readouterr().err
    for step in checkpoint.steps(folder):
        (folder / checkpoint.name(step) / "manifest.json").unlink()
    assert "manifest.json is missing" in refusal(go)


def test_more_steps_continue_from_the_newest_checkpoint(go):
    go()
    done, job = go("run.steps=10")
    assert done == 10 and job.when("step") == [9, 10]


@pytest.mark.parametrize(
    "change",
    [
        "run.micro_batch=2", "run.device=auto", "run.threads=null", "run.log_every=1", "run.save_every=1",
        "run.preview_every=3", "run.keep=1", "run.time_limit=60",
    ],
)  # fmt: skip
def test_what_does_not_change_the_training_may_change_and_is_recorded(go, tmp_path, change):
    go()
    assert go("run.steps=10", change)[0] == 10
    held = load(tmp_path / "run" / "recipe.yaml").model_dump()["run"]
    assert held == recipe("run.steps=10", change).model_dump()["run"]


@pytest.mark.parametrize(
    "change",
    [
        "run.steps=7", "run.batch=8", "run.seed=3", "run.precision=bf16", "run.clip=0.7", "ttur=17",
        "student.ema_halflife_images=null", "critic.betas=[0.0, 0.77]", "losses.distribution_matching.guidance=2.7",
        "losses.gan_generator=null", "teacher={use: gmm, classes: 5}", "sampler.steps=9",
    ],
)  # fmt: skip
def test_what_changes_the_training_is_refused_with_both_values(go, tmp_path, change):
    go()
    before = (tmp_path / "run" / "recipe.yaml").read_text()
    key, old, new = differences(recipe(), recipe(change))[0]
    assert f"this run was started with {key} = {old!r}, now it is {new!r}; " in refusal(go, change)
    assert key.startswith(change.partition("=")[0]) and (tmp_path / "run" / "recipe.yaml").read_text() == before


def test_a_longer_run_says_what_happens_to_a_decaying_rate_and_only_then(go, capsys):
    go()
    capsys.readouterr()
    refusal(go, "run.steps=10", "run.seed=3")
    assert capsys.readouterr().err == ""
    go("run.steps=10")
    assert capsys.readouterr().err.startswith("run.steps 8 -> 10: the learning rate now decays to the new end\n")


def test_a_longer_run_under_a_constant_rate_says_nothing_of_it(go, capsys):
    flat = ("student.decay_from=1.0", "critic.decay_from=1.0")
    go(*flat)
    go(*flat, "run.steps=10")
    assert "learning rate" not in capsys.readouterr().err


def test_resume_never_refuses_a_folder_with_a_run_and_takes_a_fresh_one(go):
    assert go(resume="never")[0] == 8
    assert "holds a run already" in refusal(go, resume="never")


def test_resume_takes_any_checkpoint_of_the_run(go, tmp_path):
    go()
    done, job = go(resume=str(tmp_path / "run" / "checkpoints" / checkpoint.name(4)))
    assert done == 8 and job.when("step") == [5, 6, 7, 8]


def test_resume_into_another_folder_leaves_the_first_as_it_was(go, tmp_path):
    go()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    done, job = go(folder="other", resume=str(tmp_path / "run" / "checkpoints" / checkpoint.name(4)))
    assert done == 8 and job.when("step") == [5, 6, 7, 8]
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before
    assert (tmp_path / "other" / "result.json").read_text() == (tmp_path / "run" / "result.json").read_text()


def test_resume_of_a_finished_run_into_another_folder_publishes_it_there(go, tmp_path):
    go()
    assert go(folder="other", resume=str(checkpoint.latest(tmp_path / "run" / "checkpoints")))[0] == 8
    assert (tmp_path / "other" / "result.json").is_file()


@pytest.mark.parametrize("resume", ["nowhere", "run"])
def test_resume_of_what_is_no_checkpoint_is_refused(go, tmp_path, resume):
    go()
    said = refusal(go, resume=str(tmp_path / resume))
    assert said.endswith("no such checkpoint; it is auto, never or RUN/checkpoints/step-...")


def test_a_job_that_cannot_be_built_leaves_no_folder(tmp_path):
    def job(asked, device, world, fresh):
        raise UserError("no")

    with pytest.raises(UserError):
        run(recipe(), tmp_path / "run", job)
    assert not (tmp_path / "run").exists()


def test_a_distillation_does_not_continue_a_pretraining(go, tmp_path):
    teacher = load("digits-classifier", ["run.steps=4", "run.threads=1"], model=PretrainRecipe)
    run(teacher, tmp_path / "run", lambda *given: Walk())
    assert "not a recipe for this command" in refusal(go)
