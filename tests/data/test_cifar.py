"""CIFAR-10's own archives: both versions, old and new pickles, nothing in them executed."""

import pickle
import pickletools
import shutil
import tarfile

import image_files as made
import numpy as np
import pytest

from dmd2cli.data.images import Cifar10, Images
from dmd2cli.data.sources.cifar import cifar10
from dmd2cli.data.sources.source import rgb
from dmd2cli.errors import UserError
from dmd2cli.testing import check_dataset

BATCHES = made.cifar_values()
ROWS = np.concatenate([rows for rows, _ in BATCHES]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
LABELS = [label for _, labels in BATCHES for label in labels]
WRITERS = {
    "python2": made.python2_pickle,
    **{f"python3-{p}": lambda rows, labels, p=p: made.python3_pickle(rows, labels, p) for p in (2, 3, 4)},
}


def archive(path, version):
    if version == "binary":
        return made.cifar_archive(path / "b.tar.gz", BATCHES, made.cifar_binary, "cifar-10-batches-bin", ".bin")
    return made.cifar_archive(path / "p.tar.gz", BATCHES, WRITERS[version])


def test_the_batch_of_the_tests_is_what_python_2_wrote():
    raw = made.python2_pickle(*BATCHES[0])
    found = pickle.loads(raw, encoding="bytes")                      # ours: safe to execute
    assert np.array_equal(found[b"data"], BATCHES[0][0]) and found[b"labels"] == BATCHES[0][1]
    assert "BINSTRING" in {opcode.name for opcode, _, _ in pickletools.genops(raw)}


@pytest.mark.parametrize("unpacked", [False, True])
@pytest.mark.parametrize("version", ["binary", *WRITERS])
def test_every_version_gives_the_pictures_and_the_labels(version, unpacked, tmp_path):
    path = archive(tmp_path, version)
    if unpacked:
        with tarfile.open(path) as file:
            file.extractall(tmp_path / "out", filter="data")
        path = tmp_path / "out"
    data = Cifar10(path=str(path), size=32, classes=10)
    check_dataset(data)
    assert [data[i].condition for i in range(len(data))] == LABELS[:10]
    assert all(np.array_equal(rgb(data.source, i), ROWS[i]) for i in range(10))
    assert len(Images(path=str(path))) == 10
    assert [Cifar10(path=str(path), split="test")[i].condition for i in range(2)] == LABELS[10:]
    assert len(Cifar10(path=str(path), split="all")) == 12


def test_the_folder_of_the_batches_itself_is_read(tmp_path):
    with tarfile.open(archive(tmp_path, "python2")) as file:
        file.extractall(tmp_path, filter="data")
    source = cifar10(str(tmp_path / "cifar-10-batches-py"))
    assert source.name(0) == "data_batch_1[0]" and source.name(9) == "data_batch_5[1]" and source.classes[3] == "cat"


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("place", ["whole", "data", "labels"])
def test_a_pickle_that_calls_something_is_refused_and_nothing_happens(place, tmp_path):
    trap = tmp_path / "trap"
    good = {"data": BATCHES[0][0], "labels": BATCHES[0][1]}
    bad = pickle.dumps(Evil(trap) if place == "whole" else good | {place: Evil(trap)}, protocol=2)
    path = made.cifar_archive(tmp_path / "a.tar.gz", BATCHES, lambda rows, labels: bad)
    with pytest.raises(UserError, match=r"data_batch_1.*open"):
        cifar10(str(path))
    assert not trap.exists()


@pytest.mark.parametrize(
    "batch",
    [
        {"data": BATCHES[0][0]},
        {"data": BATCHES[0][0].astype(np.int16), "labels": [0, 1]},
        {"data": BATCHES[0][0][:, :100], "labels": [0, 1]},
        {"data": BATCHES[0][0].reshape(2, 3, 32, 32), "labels": [0, 1]},
        {"data": [1, 2], "labels": [0, 1]},
        {"data": BATCHES[0][0], "labels": [0, 10]},
        {"data": BATCHES[0][0], "labels": [0]},
        {"data": BATCHES[0][0], "labels": [0, True]},
        [1, 2],
    ],
)
def test_a_batch_of_another_kind_is_refused(batch, tmp_path):
    write = lambda rows, labels: pickle.dumps(batch, protocol=2)                    # noqa: E731
    with pytest.raises(UserError, match="data_batch_1"):
        cifar10(str(made.cifar_archive(tmp_path / "a.tar.gz", BATCHES, write)))


def test_cut_archives_and_missing_batches_are_refused(tmp_path):
    path = archive(tmp_path, "binary")
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(UserError, match="not a whole tar archive"):
        cifar10(str(path))
    with tarfile.open(archive(tmp_path, "python2")) as file:
        file.extractall(tmp_path, filter="data")
    folder = tmp_path / "cifar-10-batches-py"
    (folder / "data_batch_3").unlink()
    with pytest.raises(UserError, match="data_batch_3 is not in it"):
        cifar10(str(folder))
    shutil.copy(folder / "data_batch_2", folder / "data_batch_3.bin")
    with pytest.raises(UserError, match="no whole records"):
        cifar10(str(folder))
    with pytest.raises(UserError, match="split must be one of"):
        cifar10(str(folder), "valid")
