"""Images that cannot be read: named, counted, stood in for by the next good one, and in the end refused."""

import pickle

import image_files as made
import pytest
import torch

from dmd2cli.core.noise import RectifiedFlow
from dmd2cli.core.weighting import uniform
from dmd2cli.data.base import Loader
from dmd2cli.data.corrupt import Corrupt, fetch, ordinal
from dmd2cli.data.images import Images
from dmd2cli.data.reader import Reader
from dmd2cli.errors import UserError
from dmd2cli.protocols import Teacher

X = made.values(8)
LABELS = list(range(8))


@pytest.fixture
def folder(tmp_path):
    """Class folders 0 to 7 with an image each; 2, 3 and 7 are corrupt."""
    made.folder(tmp_path, [f"{i}/{i}.png" for i in LABELS], X)
    for i in (2, 3, 7):
        made.spoil(tmp_path / f"{i}/{i}.png")
    return tmp_path


def encode(raw):
    return {"c": torch.tensor([-1 if c is None else c for c in raw])}, {}


TEACHER = Teacher(torch.nn.Identity(), RectifiedFlow(), (3, 8, 8), uniform, encode, lambda x: x, torch.nn.Identity)


def loader(data, workers=0):
    return Loader(0, 4, 2, torch.device("cpu"), None, data, reader=Reader(workers))


def test_a_corrupt_image_is_an_error_that_names_it(folder):
    data = Images(path=str(folder))
    with pytest.raises(Corrupt, match=r"2/2.png: not a whole image") as caught:
        data[2]
    assert isinstance(caught.value, UserError) and "\n" not in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and again.name == caught.value.name


def test_the_next_good_image_with_its_own_label_stands_in(folder):
    data = Images(path=str(folder))
    found = fetch(data, 2)
    assert found.example.x.equal(data[4].x) and found.example.condition == 4
    assert [err.name[-7:] for err in found.corrupt] == ["2/2.png", "3/3.png"]
    assert fetch(data, 7).example.condition == 0
    assert fetch(data, 1).corrupt == ()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_and_names_each_once(workers, folder, capsys):
    load = loader(Images(path=str(folder), max_corrupt=3), workers)
    conditions = [c for step in range(6) for batch in load(step, TEACHER) for c in batch.real_cond["c"].tolist()]
    assert set(conditions) == {0, 1, 4, 5, 6}
    told = capsys.readouterr().err
    assert [told.count(f"/{i}.png: corrupt") for i in range(8)] == [0, 0, 1, 1, 0, 0, 0, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_one_more_than_the_limit_stops_the_run_at_the_same_step(workers, folder):
    load, done = loader(Images(path=str(folder), max_corrupt=2), workers), 0
    with pytest.raises(UserError, match=r"\.png: the 3rd corrupt image \(.*\), max_corrupt is 2; dmd2 data check"):
        for step in range(10):
            load(step, TEACHER)
            done += 1
    expected = loader(Images(path=str(folder)))
    seen = set()
    for step in range(done + 1):
        before = len(seen)
        expected(step, TEACHER)
        seen = expected.reader.corrupt.names
    assert before <= 2 < len(seen)


def test_what_stands_in_does_not_depend_on_what_was_read_before(folder):
    whole = loader(Images(path=str(folder)))
    for step in range(3):
        whole(step, TEACHER)
    late = loader(Images(path=str(folder)))
    pairs = zip(whole(3, TEACHER), late(3, TEACHER), strict=True)
    assert all(a.x.equal(b.x) and a.raw == b.raw for a, b in pairs)


def test_a_set_without_one_good_image_is_refused(folder):
    for i in (0, 1, 4, 5, 6):
        made.spoil(folder / f"{i}/{i}.png")
    with pytest.raises(Corrupt):
        Images(path=str(folder))


def test_a_file_that_vanishes_is_corrupt_too(folder):
    data = Images(path=str(folder))
    (folder / "5/5.png").unlink()
    with pytest.raises(Corrupt, match="No such file"):
        data[5]


def test_a_first_image_that_is_corrupt_does_not_matter(folder):
    made.spoil(folder / "0/0.png")
    assert Images(path=str(folder)).side == (8, 8)
    with pytest.raises(Corrupt):
        Images(path=str(folder), max_corrupt=0)


def test_ordinals():
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 102, 111)] == (
        ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th"]
    )
