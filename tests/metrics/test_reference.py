"""References: statistics of images, kept and recognised; files of mu and sigma, ours and others'; what is refused."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from dmd2_plugins.metrics.fd import fd
from dmd2_plugins.metrics.kid import Kid
from dmd2_plugins.metrics.tiny import Tiny
from pictured import pictures, save

from dmd2cli.errors import UserError
from dmd2cli.features import Space, space
from dmd2cli.pictures import open_pictures
from dmd2cli.reference import Reference

CPU = torch.device("cpu")


class Counting(Tiny):
    """tiny, noting how many images it has seen."""

    seen = 0

    def forward(self, images):
        Counting.seen += len(images)
        return super().forward(images)


def counted(path):
    """(statistics of a reference, images looked at for them) in a fresh space, as another process would."""
    Counting.seen = 0
    return Reference(str(path), Space(Counting(), CPU)).statistics(), Counting.seen


def test_statistics_of_images_are_those_of_all_their_vectors(folder):
    x = Tiny()(pictures(60)).vectors.double().numpy()
    found = Reference(str(folder), space("tiny")).statistics()
    np.testing.assert_allclose(found.mu, x.mean(0), atol=1e-7)
    np.testing.assert_allclose(found.sigma, np.cov(x, rowvar=False), atol=1e-8)
    assert found.note["images"] == 60 and found.note["size"] == [8, 8] and found.note["space"] == "tiny"


def test_they_are_computed_once_and_kept(folder, cache):
    first, seen = counted(folder)
    again, later = counted(folder)
    assert (seen, later) == (60, 0) and (first.sigma == again.sigma).all() and len(list(cache.rglob("*.npz"))) == 1


def test_they_are_computed_again_for_other_images_another_space_or_a_damaged_file(folder, cache, monkeypatch):
    counted(folder)
    kept = next(cache.rglob("*.npz"))
    kept.write_bytes(kept.read_bytes()[:1000])
    assert counted(folder)[1] == 60
    monkeypatch.setattr(Counting, "fingerprint", "tiny-2")
    assert counted(folder)[1] == 60
    save(255 - pictures(1, seed=9), folder)
    assert counted(folder)[1] == 60


def test_an_image_that_was_changed_to_one_of_the_same_size_is_noticed(folder):
    counted(folder)
    file = folder / "00007.png"
    os.utime(file, ns=(file.stat().st_mtime_ns + 10**9,) * 2)
    assert counted(folder)[1] == 60


def test_where_nothing_can_be_kept_it_is_said_and_works(folder, monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DMD2_CACHE", str(tmp_path / "file"))
    assert counted(folder)[1] == 60
    assert capsys.readouterr().err.startswith("note: reference not kept: ")


def test_a_zip_and_an_npz_of_the_same_images_have_the_same_statistics(folder, tmp_path):
    shutil.make_archive(str(tmp_path / "real"), "zip", folder)
    np.savez(tmp_path / "real.npz", arr_0=pictures(60).permute(0, 2, 3, 1).numpy())
    one, *others = (counted(path)[0].mu for path in (folder, tmp_path / "real.zip", tmp_path / "real.npz"))
    assert all((mu == one).all() for mu in others)


# -- files of mu and sigma -------------------------------------------------------------------------------------


@pytest.fixture
def kept(folder, tmp_path):
    """The file of statistics that is made of a folder, under a name of its own."""
    reference = Reference(str(folder), space("tiny"))
    reference.statistics()
    return shutil.copy(reference.kept, tmp_path / "kept.npz")


def edit(path, **changes):
    """A file of statistics with other arrays in it."""
    with np.load(path) as file:
        arrays = dict(file) | changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def value(reference):
    metric = fd("tiny", str(reference), allow_small=True)
    metric.update(pictures(50, seed=5), [None] * 50)
    return metric.compute()["value"]


def test_a_kept_file_is_a_reference_of_the_same_numbers_that_says_what_it_is_of(kept, folder):
    assert value(kept) == value(folder) > 0
    about = Reference(str(kept), space("tiny")).about
    of = Reference(str(folder), space("tiny")).about
    assert (about["images"], about["space"], about["data"]) == (60, "tiny", of["data"]) and len(about["sha256"]) == 64


def test_a_file_of_another_space_is_refused(kept):
    note = json.loads(str(np.load(kept)["dmd2"]))
    edit(kept, dmd2=np.array(json.dumps(note | {"space": "tiny", "fingerprint": "tiny-0"})))
    with pytest.raises(UserError, match=r"kept.npz: of the space tiny \(tiny-0\), not tiny \(tiny-1\)"):
        value(kept)


def test_a_file_of_others_is_taken_and_its_protocol_called_unstated(kept, folder):
    edit(kept, dmd2=None)
    assert value(kept) == value(folder)
    about = Reference(str(kept), space("tiny")).about
    assert about["space"] == "unstated" and about["images"] is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mu": np.zeros(3), "sigma": np.eye(3), "dmd2": None}, "has 3 features, tiny has 64"),
        ({"sigma": np.eye(3)}, r"mu \(64,\) and sigma \(3, 3\) are no mean and covariance of finite numbers"),
        ({"mu": np.full(64, np.nan)}, "of finite numbers"),
        ({"mu": np.array([{}] * 64)}, "not an .npz of plain arrays"),
        ({"mu": None}, "no array called images"),
    ],
)
def test_files_that_cannot_be_the_reference_are_refused(kept, changes, said):
    with pytest.raises(UserError, match=f"kept.npz: .*{said}"):
        value(edit(kept, **changes))


def test_a_metric_that_needs_images_says_so_of_mu_and_sigma(kept):
    with pytest.raises(UserError, match="has mu and sigma alone; give the images themselves as the reference"):
        Kid(str(kept), extractor="tiny")


def test_pictures_beside_mu_and_sigma_in_one_file_serve_both(kept, folder):
    edit(kept, arr_0=pictures(60).permute(0, 2, 3, 1).numpy())
    metric = Kid(str(kept), extractor="tiny")
    metric.update(pictures(60), [None] * 60)
    assert metric.compute()["value"] < 0.01 and value(kept) == value(folder)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize("name", ["ref.pkl", "ref.npz", "ref.pickle"])
def test_a_pickle_is_not_opened(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match=name):
        Reference(name, space("tiny"))
    assert not (tmp_path / "exploded").exists()


# -- images ----------------------------------------------------------------------------------------------------


def test_images_of_two_sizes_are_refused_by_name(folder):
    save(pictures(61, side=9)[60:], folder / "more")
    with pytest.raises(UserError, match="is 9 x 9, and .* is 8 x 8; make them one size first: dmd2 data prepare"):
        open_pictures(folder).images(range(61))


def test_samples_of_another_size_than_the_reference_are_refused_with_both(folder, kept):
    for reference in (folder, kept):
        metric = fd("tiny", str(reference))
        with pytest.raises(UserError, match=r"fd/tiny: the samples are 16 x 16, the images of .* 8 x 8; compare"):
            metric.update(pictures(2, side=16), [None, None])


def test_grey_images_are_repeated_in_all_channels(tmp_path):
    from PIL import Image

    Image.new("L", (3, 2), 77).save(tmp_path / "grey.png")
    assert open_pictures(tmp_path).images([0]).equal(torch.full((1, 3, 2, 3), 77, dtype=torch.uint8))


def test_at_most_so_many_vectors_are_used_the_same_ones_each_time(folder):
    reference = Reference(str(folder), space("tiny"))
    few = reference.vectors(20)
    assert few.shape == (20, 64) and few.equal(Reference(str(folder), Space(Tiny(), CPU)).vectors(20))
    every = reference.vectors(50_000)
    assert len(every) == 60 and all((every - vector).abs().amax(1).min() < 1e-6 for vector in few)


def test_a_bootstrap_is_a_function_of_its_seed(folder):
    reference = Reference(str(folder), space("tiny"))
    one, again, other = (torch.cat(list(reference.bootstrap(300, seed))) for seed in (1, 1, 2))
    assert one.equal(again) and not one.equal(other) and len(one) == 300


