"""The loop around a job: when it logs, draws and saves, how it stops, and what a diverged run leaves."""

import math
import os
import signal

import pytest
from jobs import Fit, Walk, settings
from test_log import lines

from dmd2cli.engine import checkpoint, trainer
from dmd2cli.errors import Diverged, UserError


def steps(folder):
    return checkpoint.steps(folder / "checkpoints")


def newest(folder):
    return checkpoint.latest(folder / "checkpoints")


# -- the course of a run ---------------------------------------------------------------------------------------


def test_a_run_trains_every_step_once_and_ends_at_its_last(tmp_path):
    job = Walk()
    assert trainer.train(job, settings(9), tmp_path) == 9
    assert job.when("step") == list(range(1, 10))


def test_it_logs_draws_and_saves_at_its_intervals_and_at_the_end(tmp_path):
    job = Walk()
    trainer.train(job, settings(9), tmp_path)
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6, 8, 9]
    assert job.when("preview") == [5, 9] and job.when("publish") == steps(tmp_path) == [4, 8, 9]


def test_no_pictures_are_drawn_if_none_are_asked_for(tmp_path):
    job = Walk()
    trainer.train(job, settings(9, preview_every=None), tmp_path)
    assert job.when("preview") == []


def test_a_line_has_the_newest_value_of_every_term_of_either_player(tmp_path):
    trainer.train(Walk(), settings(9), tmp_path)
    assert [line["seldom"] for line in lines(tmp_path)] == [0, 0, 5, 5, 5]


def test_progress_is_plain_lines_on_stderr_where_there_is_no_terminal(tmp_path, capsys):
    trainer.train(Walk(), settings(4), tmp_path)
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1].startswith("step 4/4  ") and "often" in err and "\x1b" not in err


# -- stopping and continuing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 4, 7, 8])
def test_a_signal_ends_the_step_saves_it_and_interrupts(tmp_path, number, step):
    def act(done):
        if done == step:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(Walk(act=act), settings(9), tmp_path)
    assert steps(tmp_path)[-1] == step and signal.getsignal(number) is before


def test_a_run_continued_from_any_stop_logs_and_ends_like_one_without(tmp_path):
    for name in ("whole", "cut"):
        trainer.check_folder(tmp_path / name)
    trainer.train(Walk(), settings(20), tmp_path / "whole")
    for step in (3, 6, 13):

        def act(done, last=step):
            if done == last:
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            trainer.train(Walk(act=act), settings(20), tmp_path / "cut", newest(tmp_path / "cut"))
    trainer.train(Walk(), settings(20), tmp_path / "cut", newest(tmp_path / "cut"))
    for name in ("metrics.jsonl", "result.json"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_a_continued_run_publishes_what_it_continues_from_before_anything_else(tmp_path):
    trainer.train(Walk(), settings(4), tmp_path)
    job = Walk()
    trainer.train(job, settings(8), tmp_path, newest(tmp_path))
    assert job.asked[:2] == [("publish", 4), ("step", 5)]


def test_a_time_limit_saves_says_so_and_ends_in_order(tmp_path, monkeypatch, capsys):
    clock = iter(range(100))
    monkeypatch.setattr(trainer.time, "monotonic", lambda: next(clock))
    assert trainer.train(Walk(), settings(90, time_limit=0.1), tmp_path) == 6
    assert steps(tmp_path) == [4, 6] and "saved at step 6 of 90; the same command continues" in capsys.readouterr().err


def test_a_time_limit_too_short_for_a_step_trains_one_so_that_a_job_put_back_again_and_again_ends(tmp_path):
    trainer.train(Walk(), settings(4), tmp_path)
    job = Walk()
    assert trainer.train(job, settings(9, time_limit=1e-9), tmp_path, newest(tmp_path)) == 5
    assert job.when("step") == [5] and steps(tmp_path) == [4, 5]


# -- diverged --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_updates_that_are_not_finite_are_skipped_and_counted(tmp_path, value):
    job = Fit(bad={3: value, 4: value, 7: value})
    before = {}
    job.act = lambda done: before.setdefault(done, job.weights())
    assert trainer.train(job, settings(9, log_every=1), tmp_path) == 9
    assert [line["network/skipped"] for line in lines(tmp_path)] == [0, 0, 1, 2, 2, 2, 3, 3, 3]
    assert before[3].equal(before[4]) and before[4].equal(before[5]) and not before[5].equal(before[6])
    assert lines(tmp_path)[2]["loss"] is None and job.weights().isfinite().all() and checkpoint.verify(newest(tmp_path))


@pytest.mark.parametrize("step", [4, 6, 7])
def test_three_in_a_row_end_the_run_with_what_was_wrong_and_the_checkpoint_before(tmp_path, step):
    with pytest.raises(Diverged) as caught:
        trainer.train(Fit(bad={done: math.nan for done in range(step, 10)}), settings(9), tmp_path)
    said = str(caught.value)
    assert f"3 updates of the network in a row were not finite and skipped, the first at step {step}" in said
    assert "diverged" in said and "\n" not in said and list((tmp_path / "diverged").glob("*.json"))
    assert steps(tmp_path) == ([4] if step > 4 else [])


def test_a_save_waits_for_updates_that_are_made(tmp_path):
    trainer.train(Fit(bad={4: math.nan, 5: math.nan}), settings(9), tmp_path)
    assert steps(tmp_path) == [6, 8, 9]


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    job = Fit()
    job.act = lambda done: done == 4 and job.player.parameters[0].data.fill_(math.nan)
    with pytest.raises(Diverged):
        trainer.train(job, settings(9), tmp_path)
    assert steps(tmp_path) == []


def test_weights_that_are_not_finite_at_the_end_are_not_saved_either(tmp_path):
    job = Fit()
    job.act = lambda done: done == 9 and job.player.parameters[0].data.fill_(math.nan)
    with pytest.raises(Diverged, match="weights are not finite after step 9, so it is not saved"):
        trainer.train(job, settings(9), tmp_path)
    assert steps(tmp_path) == [4, 8] and job.when("publish") == [4, 8]


def test_a_last_update_that_was_skipped_leaves_a_state_worth_saving(tmp_path):
    trainer.train(Fit(bad={9: math.nan}), settings(9), tmp_path)
    assert steps(tmp_path) == [4, 8, 9]


# -- the folder ------------------------------------------------------------------------------------------------


def test_a_run_folder_is_made_with_its_parents_and_left_empty(tmp_path):
    trainer.check_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_run_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write there .Not a directory.; choose another folder with -o"):
        trainer.check_folder(tmp_path / "file" / "run")
