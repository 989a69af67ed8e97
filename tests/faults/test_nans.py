"""Numbers that are not finite, through the command line: once survived and counted, lasting named and stopped."""

import json

import pytest
from left import good
from processes import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.faults]
COMMAND = ("distill", "digits", "run.steps=20", "ttur=1", *SMALL)
PLAYER = {"data": "critic", "teacher": "generator", "gradient": "critic"}
FIRST = {
    "data": "the data batch-0.x was the first that is not finite (512 of 512 values NaN, rows 0-7)",
    "teacher": "the output of teacher was the first that is not finite (64 of 512 values NaN, row 0)",
    "gradient": "the gradient of the weight critic.fake.",
}


def skipped(run):
    """Logged step -> skipped updates of generator and critic."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: (line["generator/skipped"], line["critic/skipped"]) for line in lines}


@pytest.mark.parametrize("where", FIRST)
def test_one_bad_step_is_skipped_and_counted(tmp_path, zygote, where):
    done = zygote.run(*COMMAND, "-o", tmp_path / "run", fault={"do": "nan", "in": where, "first": 9, "last": 9})
    assert done.code == 0 and not done.lines, done.said
    once = (0, 1) if PLAYER[where] == "critic" else (1, 0)
    found = skipped(tmp_path / "run")
    assert [found[step] for step in (6, 8, 10, 12, 20)] == [(0, 0), (0, 0), once, once, once]
    assert not (tmp_path / "run/diverged").exists() and good(tmp_path / "run") == [10, 15, 20]


@pytest.mark.parametrize("where", FIRST)
def test_bad_steps_without_end_stop_the_run_and_leave_what_reproduces_them(tmp_path, zygote, real, where):
    run, fault = tmp_path / "run", {"do": "nan", "in": where, "first": 12, "last": 99}
    done = zygote.run(*COMMAND, "-o", run, fault=fault)
    assert done.code == 3 and len(done.lines) == 1, done.said
    assert f"3 updates of the {PLAYER[where]} in a row were not finite and skipped, the first at step 12" in done.said
    assert FIRST[where] in done.lines[0] and "Traceback" not in done.said
    assert good(run) == [5, 10]
    file = run / "diverged/step-00000012.json"
    assert file.is_file() and file.with_suffix(".safetensors").is_file() and f"diverged/{file.name}" in done.lines[0]
    again = real("-c", json.loads(file.read_text())["reproduce"]["python"], fault=fault)
    assert again.code == 0 and FIRST[where] in again.said, again.said
    healed = zygote.run(*COMMAND, "-o", run)                      # the cause is gone: the checkpoint before continues
    assert healed.code == 0 and good(run) == [10, 15, 20]


def test_bad_data_on_one_of_two_ranks_stops_both_and_is_told_once(tmp_path, zygote):
    fault = {"do": "nan", "in": "data", "first": 7, "last": 99, "rank": 1}
    done = zygote.ranks(*COMMAND, "-o", tmp_path / "run", fault=fault)
    assert [one.code for one in done] == [3, 3], done
    said = [line for one in done for line in one.lines]
    assert len(said) == 1 and "the data batch-0.x was the first that is not finite" in said[0], said
    assert "rows 4-7" in said[0] and good(tmp_path / "run") == [5]
