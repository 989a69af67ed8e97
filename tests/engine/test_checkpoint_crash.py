"""A process that dies at any instant of a save: a whole checkpoint is there, and the next save goes as ever."""

import os
import shutil
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_checkpoint import cut, holds, save
from torch.distributed.checkpoint.filesystem import FileSystem

from dmd2cli.engine import checkpoint
from dmd2cli.recipe_parts import Keep

CALLS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
KEEP = Keep(last=2, by="critic/loss")
KILLED = 9
OVER = pytest.param("over a damaged one", marks=pytest.mark.slow)


class Halfway:
    """A file that calls `then` in the middle of every write."""

    def __init__(self, file, then):
        self.file, self.then = file, then

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        self.then()
        self.file.write(data[len(data) // 2 :])


class Death:
    """The process ends in the middle of its n-th call to the file system, counted over a save.

    power: as if the machine went down: what a file holds that was not synced is lost.
    """

    def __init__(self, folder, call, power):
        self.folder, self.left, self.power = folder, call, power
        self.synced = {path.stat().st_ino for path in folder.rglob("*")}
        stream = FileSystem.create_stream

        def synced(number):
            self.count()
            self.synced.add(os.fstat(number).st_ino)
            self.count()

        @contextmanager
        def halfway(*args):
            with stream(*args) as file:
                yield Halfway(file, self.count)

        os.fsync, FileSystem.create_stream = synced, halfway
        sys.addaudithook(self.hook)

    def hook(self, event, args):
        path = str(args[0]) if event in CALLS else "/"
        if path.startswith(str(self.folder)) or not os.path.isabs(path):        # relative to an open folder: rmtree
            self.count()

    def count(self):
        self.left -= 1
        if self.left == 0:
            for path in self.folder.rglob("*") if self.power else ():
                if path.is_file() and path.stat().st_ino not in self.synced:
                    os.truncate(path, 0)
            os._exit(KILLED)


def dies(folder, call, step, power):
    """Save in a child that dies at a call; returns whether it did, or False if the save was done before."""
    child = os.fork()
    if child == 0:
        try:
            Death(folder, call, power)
            save(folder, step, KEEP)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED)
    return code == KILLED


def good(folder, steps):
    """The newest checkpoint is whole and one of those that may be."""
    path = checkpoint.newest(folder)
    assert path is not None and any(path.name == checkpoint.name(s) and holds(path, s) for s in steps)
    assert all(holds(folder / checkpoint.name(s), s) for s in checkpoint.steps(folder) if s <= steps[0])


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Nothing waits for the disk; what would be on it is counted instead."""
    monkeypatch.setattr(os, "fsync", lambda number: None)


@pytest.mark.parametrize("power", [False, True], ids=["process", "power"])
@pytest.mark.parametrize("case", [pytest.param("new", marks=pytest.mark.slow), "again", OVER])
def test_a_death_at_any_call_leaves_a_whole_checkpoint_and_the_next_save_no_leftovers(tmp_path, capfd, case, power):
    start, call, died = tmp_path / "start", 0, True
    for step in (10, 20, 30):
        save(start, step, KEEP)
    if case == "over a damaged one":
        cut(next((start / checkpoint.name(30)).glob("*.safetensors")))
    step = 40 if case == "new" else 30
    before = {"new": [30, 40], "again": [30], "over a damaged one": [20, 30]}[case]
    while died:
        call += 1
        folder = Path(shutil.copytree(start, tmp_path / f"{call}"))
        died = dies(folder, call, step, power)
        good(folder, before)
        save(folder, step, KEEP)
        assert checkpoint.newest(folder) == folder / checkpoint.name(step)
        assert holds(folder / checkpoint.name(step), step)
        assert leftovers(folder) == [] and checkpoint.steps(folder) == ([10, 30, 40] if case == "new" else [10, 20, 30])
        names = [(folder / pointer).read_text() for pointer in ("latest", "best")]
        assert names == [checkpoint.name(step), checkpoint.name(10)]
        shutil.rmtree(folder)
    assert call > 25                               # the save has that many instants


def test_the_first_checkpoint_of_a_run_is_whole_or_not_there(tmp_path):
    call, died = 0, True
    while died:
        call += 1
        (folder := tmp_path / f"{call}").mkdir()
        died = dies(folder, call, 10, power=True)
        path = checkpoint.newest(folder)
        assert path is None or holds(path, 10)
        save(folder, 10, KEEP)
        assert holds(folder / checkpoint.name(10), 10) and leftovers(folder) == []
