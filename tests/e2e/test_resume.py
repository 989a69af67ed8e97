"""The same command again continues a run, and ends bit for bit where one that was never interrupted ends."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import count

import pytest
from safetensors.torch import load_file

from dmd2cli import images
from dmd2cli.engine import checkpoint, signals
from dmd2cli.engine.distill import DistillJob
from dmd2cli.engine.log import Log

STEPS = 40
COMMAND = (
    "distill", "digits", f"run.steps={STEPS}", "run.batch=8", "run.threads=1", "run.save_every=10", "run.log_every=2",
    "run.preview_every=20", "run.device=cpu", "sampler.steps=4", "health.every=15",
)  # fmt: skip
PICTURES = [f"samples/{checkpoint.name(step)}.png" for step in (20, STEPS)]
FILES = ["student/model.safetensors", "student/student.json", "metrics.jsonl", *PICTURES]
"""What has to be equal byte by byte."""


class Killed(BaseException):
    """Stands for a process that dies: nobody catches it."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, dmd2):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert dmd2(*COMMAND, "-o", folder).code == 0
    return folder


@pytest.fixture
def continued(tmp_path, dmd2, uninterrupted):
    """Give the command again in tmp_path/run, and compare what it ends with to the run never interrupted."""

    def continued():
        folder = tmp_path / "run"
        done = dmd2(*COMMAND, "-o", folder)
        assert done.code == 0, done.err
        for name in FILES:
            assert (folder / name).read_bytes() == (uninterrupted / name).read_bytes(), name
        ours, theirs = state(folder), state(uninterrupted)
        assert ours.keys() == theirs.keys() and all(ours[k].equal(theirs[k]) for k in ours)
        assert not list(folder.rglob(".*")) and len(checkpoint.steps(folder / "checkpoints")) == 3

    return continued


def state(folder):
    """Every tensor of the last checkpoint; torch does not promise their order in its file."""
    files = (folder / "checkpoints" / checkpoint.name(STEPS)).glob("*.safetensors")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


@pytest.fixture
def process(tmp_path):
    """The command as a process of its own."""
    command = [sys.executable, "-m", "dmd2cli", *COMMAND, "-o", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, env=environment) as running:
        yield running
        running.kill()


def wait_for(process, file, words, seconds=300):
    """Return as soon as file holds words, while the process lives."""
    end = time.monotonic() + seconds
    while not (file.is_file() and words in file.read_text()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, f"{file} has no {words} after {seconds} s"
        time.sleep(0.002)


# -- processes that end before their time ----------------------------------------------------------------------


@pytest.mark.parametrize(("file", "words"), [("metrics.jsonl", '"step": 2,'), ("checkpoints/latest", "00000020")])
def test_a_run_killed_before_or_after_its_first_checkpoint_ends_as_if_it_were_not(
    tmp_path, process, continued, file, words
):
    wait_for(process, tmp_path / "run" / file, words)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    continued()


def test_ctrl_c_saves_the_state_exits_with_130_and_loses_nothing(tmp_path, process, continued):
    wait_for(process, tmp_path / "run" / "metrics.jsonl", '"step": 12,')
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130 and "Traceback" not in said
    done = checkpoint.verify(checkpoint.latest(tmp_path / "run" / "checkpoints"))
    assert 12 <= done < STEPS and f"saved at step {done} of {STEPS}; the same command continues" in said
    continued()


# -- the same at chosen moments --------------------------------------------------------------------------------


STOPS = [(1, signal.SIGINT), (10, signal.SIGINT), (16, signal.SIGTERM)]
MORE = [(16, signal.SIGINT), (21, signal.SIGINT)]


@pytest.mark.parametrize(("step", "number"), [*STOPS, *(pytest.param(*stop, marks=pytest.mark.slow) for stop in MORE)])
def test_a_stop_at_any_step_saves_that_step_and_loses_nothing(tmp_path, dmd2, continued, step, number):
    with at_call(DistillJob, "step", step, lambda: os.kill(os.getpid(), number)):
        done = dmd2(*COMMAND, "-o", tmp_path / "run")
    assert done.code == 130 and f"saved at step {step} of {STEPS}" in done.err
    assert checkpoint.verify(checkpoint.latest(tmp_path / "run" / "checkpoints")) == step
    continued()


def test_a_second_ctrl_c_stops_at_once_and_the_last_checkpoint_still_continues(tmp_path, dmd2, continued, monkeypatch):
    monkeypatch.setattr(signals, "TOGETHER", 0.0)

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with at_call(DistillJob, "step", 12, twice):
        assert dmd2(*COMMAND, "-o", tmp_path / "run").code == 130
    assert checkpoint.verify(checkpoint.latest(tmp_path / "run" / "checkpoints")) == 10
    continued()


MOMENTS = {
    "before the first file of a checkpoint": (checkpoint, "save_state", 2),
    "before the hashes of a checkpoint": (checkpoint, "sha256", 3),
    "before a checkpoint gets its name": (checkpoint, "write_json", 3),
    "before `latest` points at a checkpoint": (checkpoint, "write_text", 4),
    "between a student and its checkpoint": (checkpoint, "save", 3),
    "between the last student and its checkpoint": (checkpoint, "save", 4),
    "before a student": (DistillJob, "publication", 2),
    "before a preview": (images, "save_png", 1),
    "after the last checkpoint": (Log, "close", 1),
}
INSIDE = ("before the hashes of a checkpoint", "before a checkpoint gets its name")
"""Slow: engine/test_checkpoint_crash.py dies at every call of a save."""


@pytest.mark.parametrize(
    "moment", [pytest.param(name, marks=pytest.mark.slow) if name in INSIDE else name for name in MOMENTS]
)
def test_a_run_that_dies_at_any_moment_ends_as_if_it_had_not(tmp_path, dmd2, continued, moment):
    with at_call(*MOMENTS[moment], die), pytest.raises(Killed):
        dmd2(*COMMAND, "-o", tmp_path / "run")
    continued()


def test_a_time_limit_saves_the_state_exits_with_0_and_loses_nothing(tmp_path, dmd2, continued):
    done = dmd2(*COMMAND, "run.time_limit=0.005", "-o", tmp_path / "run")
    assert done.code == 0 and f"of {STEPS}; the same command continues" in done.err
    continued()


def die():
    raise Killed


@contextmanager
def at_call(owner, name, number, act):
    """Within: call act() just before call `number` of owner.name."""
    real, calls = getattr(owner, name), count(1)

    def acting(*args, **kwargs):
        if next(calls) == number:
            act()
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, acting)
        yield
    assert next(calls) > number, f"{name} was called too seldom for this test"


