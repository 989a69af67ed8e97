"""Saving in the background: what is written is what was there, and what fails is told where training goes on."""

import errno
import os
import subprocess
import sys
import threading
import time

import pytest
import torch
from test_checkpoint import free, full, holds, refusal, state
from test_checkpoint_crash import leftovers

from dmd2cli.engine import checkpoint, disk
from dmd2cli.engine.writer import Writer, copied
from dmd2cli.errors import UserError
from dmd2cli.recipe_parts import Keep

VALUES = {"critic/loss": 1.0}


class Slow:
    """A publish that waits to be let go."""

    def __init__(self):
        self.begun, self.go, self.thread = threading.Event(), threading.Event(), None

    def __call__(self):
        self.thread = threading.current_thread()
        self.begun.set()
        assert self.go.wait(20)


def spoil(nested):
    """Change every tensor, as the next step of a training does."""
    for value in nested.values():
        spoil(value) if isinstance(value, dict) else value.fill_(7)


@pytest.fixture
def writer(tmp_path):
    writer = Writer(tmp_path, Keep(), background=True)
    yield writer
    writer.close()


# -- what is written -------------------------------------------------------------------------------------------


def test_the_state_may_change_as_soon_as_save_returns(writer, tmp_path):
    slow, given = Slow(), state(10)
    writer.save(10, given, VALUES, slow)
    spoil(given)
    assert slow.begun.wait(20) and checkpoint.steps(tmp_path) == []
    slow.go.set()
    writer.wait()
    assert holds(tmp_path / checkpoint.name(10), 10)


def test_the_result_is_published_before_the_checkpoint_in_the_same_thread(writer, tmp_path):
    slow = Slow()
    slow.go.set()

    def publish():
        slow()
        (tmp_path / "seen").write_text(str(checkpoint.steps(tmp_path)))

    writer.save(10, state(10), VALUES, publish)
    writer.wait()
    assert (tmp_path / "seen").read_text() == "[]" and slow.thread is not threading.main_thread()


def test_without_background_all_is_done_before_save_returns(tmp_path, monkeypatch):
    monkeypatch.setattr("dmd2cli.engine.writer.copied", full)                   # no copy is made
    threads = []
    Writer(tmp_path, Keep(), background=False).save(
        10, state(10), VALUES, lambda: threads.append(threading.current_thread())
    )
    assert holds(tmp_path / checkpoint.name(10), 10) and threads == [threading.main_thread()]


def test_a_second_save_waits_for_the_first(writer, tmp_path):
    slow = Slow()
    writer.save(10, state(10), VALUES, slow)
    threading.Timer(0.2, slow.go.set).start()
    writer.save(20, state(20), VALUES, lambda: (tmp_path / "seen").write_text(str(checkpoint.steps(tmp_path))))
    writer.wait()
    assert (tmp_path / "seen").read_text() == "[10]" and checkpoint.steps(tmp_path) == [10, 20]


def test_the_policy_of_the_run_holds(tmp_path):
    writer = Writer(tmp_path, Keep(last=1, every=20), background=True)
    for step in (10, 20, 30):
        writer.save(step, state(step), VALUES)
    writer.close()
    assert checkpoint.steps(tmp_path) == [20, 30]


def test_copies_have_the_values_and_types_and_none_of_the_memory():
    given = {"a": {"w": torch.randn(4, 3).t(), "n": torch.tensor(3)}, "p": torch.nn.Parameter(torch.randn(2).half())}
    found = copied(given)
    for name, mine in checkpoint.flat(given).items():
        theirs = checkpoint.flat(found)[name]
        assert theirs.equal(mine) and theirs.dtype == mine.dtype and theirs.data_ptr() != mine.data_ptr()
        assert theirs.is_contiguous() and not theirs.requires_grad and theirs.device.type == "cpu"


def test_a_save_leaves_the_random_numbers_and_the_settings_of_training_alone(writer):
    def settings():
        random, threads = torch.get_rng_state().tolist(), torch.get_num_threads()
        return torch.is_grad_enabled(), torch.get_default_dtype(), threads, random

    before = settings()
    writer.save(10, state(10), VALUES)
    writer.wait()
    assert settings() == before


# -- failures --------------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_by_check_once_and_the_checkpoint_before_stays(writer, tmp_path, monkeypatch):
    writer.save(10, state(10), VALUES)
    writer.wait()
    monkeypatch.setattr("torch.distributed.checkpoint.filesystem.FileSystem.create_stream", full)
    writer.save(20, state(20), VALUES)
    said = refusal(until, writer)
    assert said == f"{tmp_path}: saving step 20 failed: the disk is full; earlier checkpoints are intact"
    writer.check()
    assert leftovers(tmp_path) == [] and checkpoint.newest(tmp_path) == tmp_path / checkpoint.name(10)
    monkeypatch.undo()
    writer.save(30, state(30), VALUES)
    writer.wait()
    assert holds(tmp_path / checkpoint.name(30), 30)


def until(writer):
    """Go on training until check() raises."""
    for _ in range(2000):
        writer.check()
        time.sleep(0.01)


@pytest.mark.parametrize("how", ["wait", "close", "save"])
def test_every_way_to_wait_tells_what_failed(writer, how):
    writer.save(10, state(10), VALUES, lambda: full())
    with pytest.raises(OSError) as caught:
        writer.save(20, state(20), VALUES) if how == "save" else getattr(writer, how)()
    assert caught.value.errno == errno.ENOSPC


def test_check_says_nothing_while_a_save_goes_on(writer):
    slow = Slow()
    writer.save(10, state(10), VALUES, slow)
    writer.check()
    slow.go.set()


def test_what_cannot_be_published_is_not_saved(writer, tmp_path):
    def refuse():
        raise UserError("no")

    writer.save(10, state(10), VALUES, refuse)
    assert refusal(writer.wait) == "no" and checkpoint.newest(tmp_path) is None


def test_without_room_for_the_checkpoint_the_result_is_not_published_either(writer, tmp_path, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", free(9))
    writer.save(10, state(10), VALUES, lambda: (tmp_path / "seen").touch())
    assert "the disk is full: saving step 10 needs" in refusal(writer.wait) and list(tmp_path.iterdir()) == []


def test_a_run_begins_by_removing_what_a_crash_left(writer, tmp_path):
    writer.save(10, state(10), VALUES)
    writer.wait()
    for end in ("tmp", "gone"):
        (tmp_path / f".{checkpoint.name(20)}.{end}").mkdir()
    (tmp_path / ".latest.tmp").touch()
    os.replace(tmp_path / checkpoint.name(10), tmp_path / f".{checkpoint.name(10)}.old")
    Writer(tmp_path, Keep(), background=True).close()
    assert leftovers(tmp_path) == [] and holds(tmp_path / checkpoint.name(10), 10)


def test_closing_ends_the_thread_and_may_be_done_twice(tmp_path):
    before = threading.active_count()
    writer = Writer(tmp_path, Keep(), background=True)
    writer.save(10, state(10), VALUES)
    writer.close()
    writer.close()
    assert threading.active_count() == before and holds(tmp_path / checkpoint.name(10), 10)


CRASH = """
import sys, time, torch
from pathlib import Path
from dmd2cli.engine.writer import Writer
from dmd2cli.recipe_parts import Keep
writer = Writer(Path(sys.argv[1]), Keep(), background=True)
writer.save(10, {"w": torch.ones(3)}, {}, lambda: time.sleep(0.5))
raise SystemExit(5)
"""


def test_a_main_thread_that_dies_leaves_a_whole_checkpoint_and_no_process(tmp_path):
    place = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CRASH, tmp_path], timeout=60, env=place)
    assert done.returncode == 5 and checkpoint.newest(tmp_path) == tmp_path / checkpoint.name(10)
