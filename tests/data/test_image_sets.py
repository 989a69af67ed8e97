"""The options that every image data set has, and shapes."""

import encoders
import image_files as made
import numpy as np
import pytest
import torch

from dmd2cli import registry
from dmd2cli.data.images import Images, Lmdb
from dmd2cli.data.shapes import Shapes
from dmd2cli.data.sources import source
from dmd2cli.errors import UserError
from dmd2cli.recipe import Use
from dmd2cli.recipe_build import build
from dmd2cli.testing import check_dataset

X, LABELS = made.values(), [2, 0, 1, 2, 0, 7]


@pytest.fixture
def path(tmp_path):
    return str(made.edm_zip(tmp_path / "a.zip", X, LABELS))


def test_every_byte_becomes_its_place_between_minus_one_and_one(tmp_path):
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)[:, :, None].repeat(3, 2)
    made.folder(tmp_path, ["a.png"], [image])
    x = Images(path=str(tmp_path))[0].x
    assert x.equal(torch.from_numpy(image).permute(2, 0, 1).float() / 127.5 - 1)
    assert x.min() == -1 and x.max() == 1 and x.is_contiguous()


def test_mirrored_images_are_items_of_their_own(path):
    data, plain = Images(path=path, mirror=True), Images(path=path)
    check_dataset(data)
    assert len(data) == 2 * made.N
    assert all(data[i].x.equal(plain[i].x) for i in range(made.N))
    assert all(data[made.N + i].x.equal(plain[i].x.flip(2)) for i in range(made.N))
    assert [data[made.N + i].condition for i in range(made.N)] == LABELS


def test_a_limit_takes_images_evenly_from_all_of_them(path):
    data, plain = Images(path=path, limit=3, mirror=True), Images(path=path)
    assert len(data) == 6 and [data[i].condition for i in range(3)] == [2, 1, 0]
    assert all(data[i].x.equal(plain[2 * i].x) for i in range(3))
    assert len(Images(path=path, limit=1000)) == made.N


def test_an_image_of_another_size_is_named_with_the_command_that_helps(tmp_path, path):
    with pytest.raises(UserError, match=r"a.zip/00000/img00000000.png: is 8 x 8, and 64 x 64 .*dmd2 data prepare"):
        Images(path=path, size=64)
    made.folder(tmp_path / "b", ["0.png", "1.png"], [X[0], made.values(1, 9)[0]])
    data = Images(path=str(tmp_path / "b"))
    with pytest.raises(UserError, match=r"b/1.png: is 9 x 9, and 8 x 8 is expected"):
        data[1]


def test_classes_are_checked(tmp_path, path):
    assert Images(path=path, classes=8)[5].condition == 7
    with pytest.raises(UserError, match=r"img00000005.png: has label 7, but classes is 7"):
        Images(path=path, classes=7)[5]
    for options in ({"labels": False}, {"path": str(made.folder(tmp_path / "b", ["0.png"], X[:1]))}):
        with pytest.raises(UserError, match="has no class labels"):
            Images(**{"path": path, "classes": 7} | options)


@pytest.mark.parametrize("option", ["size", "classes", "limit", "max_corrupt"])
def test_numbers_that_mean_nothing_are_refused(option, path):
    with pytest.raises(UserError, match=f"{option} must be at least"):
        Images(path=path, **{option: -1})


def test_an_item_that_is_not_there_is_an_index_error(path):
    with pytest.raises(IndexError):
        Images(path=path)[made.N]
    assert len(list(Images(path=path))) == made.N


def test_a_recipe_builds_them_and_wrong_options_are_refused(path):
    with registry.override("datasets", "images", Images):
        assert len(build("datasets", Use(use="images", path=path, mirror=True), "data.real")) == 2 * made.N
        for wrong, said in (({}, "path"), ({"path": path, "size": "8"}, "size"), ({"path": path, "sise": 8}, "sise")):
            with pytest.raises(UserError, match=rf"data.real.{said}"):
                build("datasets", Use(use="images", **wrong), "data.real")


def test_a_missing_package_is_named_with_the_extra(path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(source, "import_module", missing)
    with pytest.raises(UserError, match=r"dataset 'lmdb' needs lmdb: pip install 'dmd2cli\[data\]'"):
        Lmdb(path=path)


# -- shapes ----------------------------------------------------------------------------------------------------


def test_shapes_are_images_on_256_levels_with_a_class_each():
    data = Shapes(size=16, classes=4, count=40)
    check_dataset(data)
    levels = (data[0].x + 1) * 127.5
    assert data[0].x.shape == (3, 16, 16) and levels.allclose(levels.round(), atol=1e-4)
    assert [data[i].condition for i in range(5)] == [0, 1, 2, 3, 0]
    assert Shapes(labels=False)[3].condition is None
    assert not data[0].x.equal(data[4].x) and not data[0].x.equal(Shapes(size=16, classes=4, seed=1)[0].x)


def test_the_class_of_a_shape_can_be_seen():
    data = Shapes(size=16, classes=10, count=200)
    hues = torch.stack([data[i].x.flatten(1).amax(1) - data[i].x.flatten(1).amin(1) for i in range(200)])
    middles = torch.stack([hues[label::10].mean(0) for label in range(10)])
    found = torch.cdist(hues, middles).argmin(1)
    assert (found == torch.arange(200) % 10).float().mean() > 0.7


def test_shapes_have_the_size_of_the_teachers_images_and_captions_on_request():
    data = Shapes(size=None, captions=True)
    with pytest.raises(UserError, match="size: is that of a teacher's images"):
        data[0]
    found = data.for_teacher(encoders.teacher())
    assert found[0].x.shape == (3, encoders.SIDE, encoders.SIDE) and Shapes(size=16).for_teacher(None).size == 16
    captions = [found[i].condition for i in range(10)]
    assert captions[0] == "a red disc" and len(set(captions)) == 10
    with pytest.raises(UserError, match="size: the teacher's images are 8 x 16, and shapes are square; set size"):
        data.for_teacher(encoders.teacher(shape=(4, 4, 8)))


@pytest.mark.parametrize("option", ["size", "classes", "count", "seed"])
def test_shapes_of_nothing_are_refused(option):
    with pytest.raises(UserError, match=f"shapes: {option} must be at least"):
        Shapes(**{option: -1})
