"""Disks that are full, damaged or read-only: nothing is lost, and one line says what to do."""

import shutil
import subprocess

import pytest
from left import good, last, same
from processes import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.faults]
COMMAND = ("distill", "digits", "run.steps=20", *SMALL)
MIB = 2**20


@pytest.fixture(scope="module")
def whole(tmp_path_factory, zygote):
    """A run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = zygote.run(*COMMAND, "-o", folder)
    assert done.code == 0, done.said
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, zygote):
    """A run that was killed at step 18: checkpoints of steps 5, 10, 15."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    assert zygote.run(*COMMAND, "-o", folder, fault={"do": "kill", "phase": "critic", "step": 18}).code == -9
    assert good(folder) == [5, 10, 15]
    return folder


@pytest.fixture
def disk(tmp_path):
    """A disk of 64 MiB."""
    (folder := tmp_path / "disk").mkdir()
    try:
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if made.returncode:
        pytest.skip("only root may make a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def stops(zygote):
    """Give the command, which must end with code 2 and one line; returns that."""

    def stops(run, fault=None):
        done = zygote.run(*COMMAND, "-o", run, fault=fault)
        assert done.code == 2 and len(done.lines) == 1 and "Traceback" not in done.said, done
        return done.lines[0]

    return stops


@pytest.fixture
def continues(zygote, whole):
    """The same command again ends as a run that was never interrupted; returns what it said."""

    def continues(run):
        done = zygote.run(*COMMAND, "-o", run)
        assert done.code == 0, done.said
        same(run, whole)
        return done.said

    return continues


# -- full ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instant", [9, 14, 23], ids=["shard", "manifest", "latest"])
def test_a_disk_that_fills_up_in_a_save(disk, stops, continues, instant):
    run = disk / "run"
    said = stops(run, {"do": "fill", "disk": str(disk), "save": 10, "instant": instant})
    assert "the disk is full" in said and "intact" in said
    assert good(run) == ([5] if instant < 21 else [5, 10])
    (disk / "filler").unlink()
    continues(run)


def test_a_disk_that_is_too_small_from_the_beginning(disk, stops, continues):
    (disk / "other").write_bytes(bytes(62 * MIB))
    said = stops(disk / "run")
    assert "the disk is full: a checkpoint needs" in said and "are free" in said
    assert good(disk / "run") == []
    (disk / "other").unlink()
    continues(disk / "run")


@pytest.mark.parametrize("instant", [3, 9, 14, 23], ids=["student", "shard", "manifest", "latest"])
def test_a_write_that_the_disk_refuses(tmp_path, stops, continues, instant):
    said = stops(tmp_path / "run", {"do": "ENOSPC", "lasts": False, "save": 10, "instant": instant})
    assert "the disk is full" in said or "No space left" in said
    assert good(tmp_path / "run") == ([5] if instant < 21 else [5, 10])
    continues(tmp_path / "run")


# -- read-only -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ["EROFS", "EACCES"])
@pytest.mark.parametrize("instant", [1, 6, 8, 17, 21])
def test_a_folder_that_may_not_be_written_any_more(tmp_path, stops, continues, error, instant):
    said = stops(tmp_path / "run", {"do": error, "save": 10, "instant": instant})
    assert "Read-only file system" in said or "Permission denied" in said
    assert good(tmp_path / "run") == [5]
    continues(tmp_path / "run")


def test_a_disk_that_has_become_read_only(disk, stopped, stops, continues):
    run = disk / "run"
    shutil.copytree(stopped, run)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert "Read-only file system" in stops(run)
    assert good(run) == [5, 10, 15]
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    continues(run)


# -- damaged ---------------------------------------------------------------------------------------------------


def shard(folder):
    return next(folder.glob("*.safetensors"))


def cut(folder):
    shard(folder).write_bytes(shard(folder).read_bytes()[:-100])


def flip(folder):
    content = bytearray(shard(folder).read_bytes())
    content[len(content) // 2] ^= 1
    shard(folder).write_bytes(content)


DAMAGES = {
    "cut": (cut, "is missing, cut or changed"),
    "one bit": (flip, "is missing, cut or changed"),
    "no shard": (lambda folder: shard(folder).unlink(), "is missing, cut or changed"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing or cut"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_taken_with_a_warning(tmp_path, stopped, continues, damage):
    run = shutil.copytree(stopped, tmp_path / "run")
    act, words = DAMAGES[damage]
    act(last(run))
    said = [line for line in continues(run).splitlines() if words in line]
    assert len(said) == 1 and said[0].endswith("step-00000010 is taken, which is older")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_with_no_whole_checkpoint_is_refused(tmp_path, stopped, stops, damage):
    run = shutil.copytree(stopped, tmp_path / "run")
    for folder in (run / "checkpoints").glob("step-*"):
        DAMAGES[damage][0](folder)
    assert DAMAGES[damage][1] in stops(run)
