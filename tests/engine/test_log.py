"""The log of a run: one JSON object per logged step, and no step twice after a continuation."""

import json

from dmd2cli.engine.log import Log


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write(folder, first, *steps):
    log = Log(folder, first)
    for step in steps:
        log.write(step, {"loss": step / 3})
    log.close()


def test_every_logged_step_is_a_line_with_its_numbers(tmp_path):
    write(tmp_path, 0, 1, 2)
    assert lines(tmp_path) == [{"step": 1, "loss": 1 / 3}, {"step": 2, "loss": 2 / 3}]


def test_a_continued_run_drops_what_lies_beyond_its_checkpoint(tmp_path):
    write(tmp_path, 0, 2, 4, 6, 8)
    write(tmp_path, 4, 6, 8)
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6, 8]
    write(tmp_path, 6)
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6]


def test_a_fresh_start_drops_everything(tmp_path):
    write(tmp_path, 0, 2, 4)
    write(tmp_path, 0, 1)
    assert [line["step"] for line in lines(tmp_path)] == [1]


def test_a_line_cut_short_by_a_crash_is_dropped(tmp_path):
    write(tmp_path, 0, 2, 4)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    write(tmp_path, 6, 7)
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 7]


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    log = Log(tmp_path, 0)
    log.write(1, {"loss": 1.0})
    assert lines(tmp_path) == [{"step": 1, "loss": 1.0}]
    log.close()


def test_tensorboard_has_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, 0, 1, 2, 3)
    board = EventAccumulator(str(tmp_path / "tb")).Reload()
    found = [(event.step, round(event.value, 4)) for event in board.Scalars("loss")]
    assert found == [(1, 0.3333), (2, 0.6667), (3, 1.0)]
