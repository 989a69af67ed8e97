"""Checkpoints: what goes in comes out, damage is named, and a failed save leaves the one before as it was."""

import errno
import json
import os
import resource
import shutil
from contextlib import contextmanager

import pytest
import torch
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from torch.distributed.checkpoint import save as save_state

from dmd2cli.engine import checkpoint, disk
from dmd2cli.errors import UserError
from dmd2cli.recipe_parts import Keep


def state(step):
    """A state like a player's: nested, of several types, one of them without dimensions."""
    source = torch.Generator().manual_seed(step)
    model = {"w": torch.randn(64, 32, generator=source), "conv.b": torch.randn(4, generator=source)}
    optim = {"w": {"step": torch.tensor(float(step)), "exp_avg": torch.randn(64, 32, generator=source)}}
    return {"players": {"generator": {"model": model, "optim": optim, "updates": torch.tensor(step)}}}


def flat(nested, prefix=""):
    """{dotted name: tensor} of a nested state."""
    if not isinstance(nested, dict):
        return {prefix: nested}
    return {k: v for name, part in nested.items() for k, v in flat(part, f"{prefix}.{name}").items()}


def save(folder, step, keep=Keep()):  # noqa: B008
    checkpoint.save(folder, step, state(step), keep, {"critic/loss": step + 0.1})


def holds(path, step):
    """Whether a checkpoint is whole and has the state of a step."""
    found = flat(checkpoint.load(path, state(0)))
    return checkpoint.verify(path) == step and all(found[k].equal(v) for k, v in flat(state(step)).items())


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of the steps 10 and 20."""
    for step in (10, 20):
        save(tmp_path / "checkpoints", step)
    return tmp_path / "checkpoints"


def refusal(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- round trip ------------------------------------------------------------------------------------------------


def test_every_tensor_and_its_type_come_back(folder):
    found, given = flat(checkpoint.load(folder / checkpoint.name(20), state(0))), flat(state(20))
    assert found.keys() == given.keys()
    assert all(found[k].dtype == v.dtype and found[k].equal(v) for k, v in given.items())


def test_the_manifest_has_the_step_the_newest_values_and_the_hash_of_every_file(folder):
    path = folder / checkpoint.name(20)
    found = checkpoint.manifest(path)
    assert found["step"] == 20 and found["values"] == {"critic/loss": 20.1}
    assert found["sha256"].keys() | {"manifest.json"} == {file.name for file in path.iterdir()}
    assert found["versions"]["torch"] == torch.__version__ and found["world_size"] == 1
    assert found["bytes"] == sum(file.stat().st_size for file in path.glob("*.safetensors"))


def test_nothing_in_a_checkpoint_is_a_pickle(folder):
    assert {file.suffix for file in (folder / checkpoint.name(20)).iterdir()} == {".safetensors", ".json"}


def test_latest_is_the_highest_step_whatever_the_order_of_writing(folder):
    save(folder, 15)
    assert checkpoint.latest(folder) == folder / checkpoint.name(20)
    assert checkpoint.latest(folder / "nowhere") is None


def test_a_step_saved_again_replaces_itself(folder):
    checkpoint.save(folder, 20, state(21), Keep(), {})
    assert holds(folder / checkpoint.name(20), 20) is False
    assert checkpoint.load(folder / checkpoint.name(20), state(0))["players"]["generator"]["updates"] == 21


def test_only_the_newest_are_kept(tmp_path):
    for step in range(1, 7):
        save(tmp_path, step, Keep(last=2))
    assert checkpoint.steps(tmp_path) == [5, 6]
    assert (tmp_path / "latest").read_text() == checkpoint.name(6)


def test_continuing_from_an_older_one_does_not_drop_what_it_saves(folder):
    save(folder, 15, Keep(last=1))
    assert checkpoint.steps(folder) == [15, 20]


# -- damage ----------------------------------------------------------------------------------------------------


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


def flip(file):
    """Change one byte in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)


def empty(file):
    os.truncate(file, 0)


@pytest.mark.parametrize("damage", [cut, flip, empty, os.unlink])
@pytest.mark.parametrize("which", ["*.safetensors", "manifest.json"])
def test_a_damaged_file_is_named_with_an_older_checkpoint(folder, damage, which):
    path = folder / checkpoint.name(20)
    file = next(path.glob(which))
    damage(file)
    said = refusal(checkpoint.load, path, state(0))
    assert said.startswith(f"{path}: ") and file.name in said
    assert said.endswith(f"continue from an older one with --resume {folder / checkpoint.name(10)}")
    assert holds(folder / checkpoint.name(10), 10)


def test_without_an_older_checkpoint_none_is_promised(tmp_path):
    save(tmp_path, 10)
    cut(next((tmp_path / checkpoint.name(10)).glob("*.safetensors")))
    assert "--resume" not in refusal(checkpoint.verify, tmp_path / checkpoint.name(10))


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    assert refusal(checkpoint.verify, tmp_path).startswith(f"{tmp_path}: not a whole checkpoint")


@pytest.mark.parametrize("text", ["[]", '"words"', "{}", '{"step": 20}'])
def test_a_manifest_that_says_something_else_is_refused(folder, text):
    (folder / checkpoint.name(20) / "manifest.json").write_text(text)
    assert "not a whole checkpoint" in refusal(checkpoint.verify, folder / checkpoint.name(20))


# -- saves that fail -------------------------------------------------------------------------------------------


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["save_state", "sync", "sha256", "write_json", "write_text"])
def test_a_disk_that_fills_up_while_saving_leaves_the_checkpoints_before(folder, monkeypatch, where):
    monkeypatch.setattr(checkpoint, where, full)
    said = refusal(save, folder, 30)
    assert said == f"{folder}: saving step 30 failed: the disk is full; earlier checkpoints are intact"
    monkeypatch.undo()
    assert not list(folder.glob(".*"))
    assert holds(folder / checkpoint.name(20), 20) and holds(folder / checkpoint.name(10), 10)


def test_a_system_that_refuses_to_write_the_tensors_leaves_the_checkpoints_before(folder):
    with largest_file(4096):
        said = refusal(save, folder, 30)
    assert said.startswith(f"{folder}: saving step 30 failed: File too large")
    assert checkpoint.steps(folder) == [10, 20] and not list(folder.glob(".*"))
    assert holds(folder / checkpoint.name(20), 20)
    save(folder, 30)
    assert holds(folder / checkpoint.name(30), 30)


@contextmanager
def largest_file(size):
    """Within: the system refuses to let a file grow beyond some bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_error_that_is_not_the_system_s_is_not_called_one(folder, monkeypatch):
    monkeypatch.setattr(checkpoint, "save_state", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(folder, 30)


def test_a_folder_that_cannot_be_written_is_named(folder, monkeypatch):
    def locked(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "mkdir", locked)                    # root may write anywhere
    said = refusal(save, folder, 30)
    assert said == f"{folder}: saving step 30 failed: Permission denied; earlier checkpoints are intact"
    assert checkpoint.newest(folder) == folder / checkpoint.name(20)


# -- room ------------------------------------------------------------------------------------------------------


def free(size):
    """A disk with so many bytes free, of 2^40."""
    return lambda path: type("Usage", (), {"total": 2**40, "free": int(size)})


def test_what_a_checkpoint_needs_is_what_its_tensors_take(folder):
    size = checkpoint.needed(state(20))
    assert size == sum(v.numel() * v.element_size() for v in flat(state(20)).values())
    assert size < checkpoint.manifest(folder / checkpoint.name(20))["bytes"] < size + 4096


def test_too_little_room_is_said_with_both_numbers_before_anything_is_written(folder, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", free(1.04 * checkpoint.needed(state(0))))
    monkeypatch.setattr(checkpoint, "save_state", lambda *a, **k: 1 / 0)
    said = refusal(save, folder, 30)
    assert said.startswith(f"{folder}: the disk is full: saving step 30 needs 1.6e-05 GiB, and 1.59e-05 GiB are free; ")
    assert checkpoint.steps(folder) == [10, 20] and not list(folder.glob(".*"))


def test_room_for_the_tensors_and_five_percent_is_enough(folder, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", free(1.06 * checkpoint.needed(state(0))))
    save(folder, 30)
    assert holds(folder / checkpoint.name(30), 30)


def test_a_file_system_that_does_not_say_what_is_free_is_written_to(folder, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", full)
    checkpoint.room(folder, 2**60)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: type("Usage", (), {"total": 0, "free": 0}))
    checkpoint.room(folder, 2**60)


def test_room_is_asked_of_a_folder_that_is_still_to_come(tmp_path):
    checkpoint.room(tmp_path / "run" / "checkpoints", 1)
    assert "the disk is full: a checkpoint needs" in refusal(checkpoint.room, tmp_path / "run", 2**60)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_have_the_shards_of_all_ranks_is_no_checkpoint(folder, monkeypatch):
    real = checkpoint.save_state

    def elsewhere(state, **given):
        real({name: t for name, t in state.items() if not name.endswith("exp_avg")}, **given)

    monkeypatch.setattr(checkpoint, "save_state", elsewhere)
    assert "all ranks must see one folder" in refusal(save, folder, 30)
    assert checkpoint.steps(folder) == [10, 20] and not list(folder.glob(".*"))


# -- the newest that is whole ----------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [cut, flip, empty, os.unlink])
@pytest.mark.parametrize("which", ["*.safetensors", "manifest.json"])
def test_a_damaged_newest_gives_way_to_the_one_before_with_a_line(folder, capsys, damage, which):
    path = folder / checkpoint.name(20)
    file = next(path.glob(which))
    damage(file)
    assert checkpoint.newest(folder) == folder / checkpoint.name(10)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: ") and file.name in line
    assert line.endswith(f"; {checkpoint.name(10)} is taken, which is older")


def test_every_damaged_one_on_the_way_has_its_line(folder, capsys):
    save(folder, 30)
    for step in (20, 30):
        cut(next((folder / checkpoint.name(step)).glob("*.safetensors")))
    assert checkpoint.newest(folder) == folder / checkpoint.name(10)
    assert [checkpoint.name(30) in line for line in capsys.readouterr().err.splitlines()] == [True, False]


def test_where_none_is_whole_the_newest_is_named(folder):
    for step in (10, 20):
        cut(next((folder / checkpoint.name(step)).glob("*.safetensors")))
    said = refusal(checkpoint.newest, folder)
    assert said.startswith(f"{folder / checkpoint.name(20)}: damaged checkpoint: ")
    assert said.endswith("is missing, cut or changed; there is no other that is whole: start anew with another -o")


def test_a_whole_newest_is_taken_without_a_word_and_none_where_there_is_none(folder, capsys):
    assert checkpoint.newest(folder) == folder / checkpoint.name(20)
    assert checkpoint.newest(folder / "nowhere") is None and capsys.readouterr().err == ""


def test_a_disk_that_fails_to_read_is_damage_too(folder, monkeypatch, capsys):
    real = disk.sha256

    def failing(path):
        if path.parent.name == checkpoint.name(20):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    monkeypatch.setattr("dmd2cli.engine.stored.sha256", failing)
    assert checkpoint.newest(folder) == folder / checkpoint.name(10)
    assert "is not readable (Input/output error)" in capsys.readouterr().err


@pytest.mark.parametrize("change", [('"step": 20', '"step": 21'), ("20.1", "20.3"), ("critic/loss", "critic/lost")])
def test_a_manifest_with_one_character_changed_is_refused(folder, change):
    file = folder / checkpoint.name(20) / "manifest.json"
    file.write_text(file.read_text().replace(*change))
    assert checkpoint.newest(folder) == folder / checkpoint.name(10)


def test_a_checkpoint_of_before_shards_and_seals_still_loads(folder):
    path = folder / checkpoint.name(20)
    shutil.rmtree(path)
    save_state(state(20), storage_writer=HuggingFaceStorageWriter(str(path)), no_dist=True)
    hashes = {file.name: checkpoint.sha256(file) for file in path.iterdir()}
    found = {"step": 20, "values": {"critic/loss": 20.1}, "versions": {}, "sha256": hashes}
    (path / "manifest.json").write_text(json.dumps(found))
    assert checkpoint.newest(folder) == path and holds(path, 20)


def test_a_state_larger_than_a_file_goes_into_several(folder, monkeypatch):
    monkeypatch.setattr(checkpoint, "FILE_BYTES", 4096)
    save(folder, 30)
    assert len(list((folder / checkpoint.name(30)).glob("*.safetensors"))) > 1
    assert holds(folder / checkpoint.name(30), 30)


# -- small files -----------------------------------------------------------------------------------------------


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    checkpoint.write_json(tmp_path / "a.json", {"a": 1})
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError):
        checkpoint.write_json(tmp_path / "a.json", {"a": 2})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1} and len(list(tmp_path.iterdir())) == 1


def test_a_checkpoint_that_lacks_what_is_asked_is_one_line(tmp_path):
    checkpoint.save(tmp_path, 1, {"a": torch.ones(2)}, Keep(), {})
    with pytest.raises(UserError, match="it lacks what this version of dmd2, or this recipe, needs"):
        checkpoint.load(tmp_path / checkpoint.name(1), {"a": torch.zeros(2), "b": torch.zeros(())})
