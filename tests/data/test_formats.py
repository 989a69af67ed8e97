"""Every format gives the same pictures, labels and names."""

import json
import os
import pickle
import threading
import zipfile

import image_files as made
import numpy as np
import pytest
from PIL import Image

from dmd2cli.data.corrupt import Corrupt
from dmd2cli.data.images import Cifar10, HuggingFace, Images, Lmdb, WebDataset
from dmd2cli.data.sources import tar_index
from dmd2cli.data.sources.containers import Folder, Zip
from dmd2cli.data.sources.detect import open_source
from dmd2cli.data.sources.labelled import encoded
from dmd2cli.data.sources.shards import Shards, expand
from dmd2cli.data.sources.source import decode, fingerprint, pixels, rgb
from dmd2cli.errors import UserError
from dmd2cli.testing import check_dataset

X, LABELS = made.values(), [2, 0, 1, 2, 0, 7]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DMD2_CACHE", str(tmp_path / "cache"))


def plain_folder(path):
    return made.folder(path / "plain", [f"{i}.png" for i in range(made.N)], X)


def plain_zip(path):
    with zipfile.ZipFile(path / "plain.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for i, image in enumerate(X):
            file.writestr(f"pictures/{i}.png", made.png(image))
    return path / "plain.zip"


def edm_folder(path):
    folder = made.folder(path / "edm", made.edm_names(), X)
    (folder / "dataset.json").write_text(made.edm_json(LABELS))
    return folder


def edm_zip(path):
    return made.edm_zip(path / "edm.zip", X, LABELS)


def packed_zip(path):
    return made.edm_zip(path / "packed.zip", X, LABELS, zipfile.ZIP_DEFLATED)


def npz_last(path):
    np.savez(path / "last.npz", images=X, labels=np.array(LABELS))
    return path / "last.npz"


def npz_first(path):
    np.savez_compressed(path / "first.npz", X.transpose(0, 3, 1, 2), np.array(LABELS, np.int32)[:, None])
    return path / "first.npz"


def lmdb(path):
    pytest.importorskip("lmdb")
    return made.lmdb_folder(path / "lmdb", X, LABELS)


def shard_folder(path):
    return made.shards(path / "shards", X, LABELS)


def shard_pattern(path):
    return made.shards(path / "shards", X, LABELS) / "set-%06d.tar"


def hub(path):
    pytest.importorskip("datasets")
    return made.hub_folder(path / "hub", X, LABELS)


LABELLED = [edm_folder, edm_zip, packed_zip, npz_last, npz_first, lmdb, shard_folder, shard_pattern, hub]


@pytest.mark.parametrize("build", [plain_folder, plain_zip, *LABELLED], ids=lambda f: f.__name__)
def test_a_format_gives_the_pictures_and_their_labels(build, tmp_path):
    data = Images(path=str(build(tmp_path)))
    check_dataset(data)
    assert len(data) == made.N
    for i, example in enumerate(data[i] for i in range(made.N)):
        expected = X[i].transpose(2, 0, 1).astype(np.float32) / np.float32(127.5) - np.float32(1)
        assert np.array_equal(example.x.numpy(), expected)
        assert example.condition == (LABELS[i] if build in LABELLED else None)


@pytest.mark.parametrize("build", [plain_folder, *LABELLED], ids=lambda f: f.__name__)
def test_a_set_is_read_by_threads_after_a_pickle_and_after_a_fork(build, tmp_path):
    data = Images(path=str(build(tmp_path)))
    data[0]
    copy, found = pickle.loads(pickle.dumps(data)), {}
    readers = [threading.Thread(target=lambda i=i: found.update({i: copy[i].x})) for i in range(made.N)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert all(found[i].equal(data[i].x) for i in range(made.N))
    if build is not hub:                           # arrow has threads of its own, which a fork does not copy
        assert in_child(lambda: all(np.array_equal(rgb(data.source, i), X[i]) for i in range(made.N)))
    assert data[1].x.equal(copy[1].x)


@pytest.mark.parametrize("name", made.SETS)
def test_every_registered_name_passes_the_conformance_check(name, tmp_path):
    for package in {"lmdb": ["lmdb"], "huggingface": ["datasets"]}.get(name, []):
        pytest.importorskip(package)
    kinds = {"images": Images, "cifar10": Cifar10, "lmdb": Lmdb, "webdataset": WebDataset, "huggingface": HuggingFace}
    check_dataset(kinds[name](path=str(made.SETS[name](tmp_path)), classes=10))


def in_child(question):
    """The answer of a forked process."""
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if question() else 1
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("build", LABELLED, ids=lambda f: f.__name__)
def test_labels_can_be_left_out(build, tmp_path):
    assert Images(path=str(build(tmp_path)), labels=False)[0].condition is None


# -- labels of folders and zips --------------------------------------------------------------------------------


def labels(folder):
    source = open_source(str(folder))
    return [source.label(i) for i in range(len(source))], list(source.classes)


def test_class_folders_are_numbered_by_name(tmp_path):
    made.folder(tmp_path, ["cat/b.png", "ant/a.png", "dog/x/c.png"], X[:3])
    assert labels(tmp_path) == ([0, 1, 2], ["ant", "cat", "dog"])


def test_folders_that_are_numbers_are_their_own_labels(tmp_path):
    made.folder(tmp_path, ["2/b.png", "10/a.png", "0/c.png"], X[:3])
    assert labels(tmp_path) == ([0, 10, 2], [])


def test_one_folder_or_images_beside_folders_are_no_classes(tmp_path):
    made.folder(tmp_path / "one", ["cat/b.png", "cat/a.png"], X[:2])
    assert labels(tmp_path / "one") == ([None, None], [])
    made.folder(tmp_path / "mixed", ["cat/b.png", "dog/a.png", "c.png"], X[:3])
    assert labels(tmp_path / "mixed")[0] == [None] * 3


def test_a_zip_of_a_folder_has_the_labels_of_the_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in ("top/cat/b.png", "top/ant/a.png", "top/notes.txt", "__MACOSX/top/cat/._b.png", "top/.hidden.png"):
            file.writestr(name, made.png(X[0]))
    assert labels(tmp_path / "a.zip") == ([0, 1], ["ant", "cat"])


def test_edm_labels_may_be_null(tmp_path):
    assert labels(made.edm_zip(tmp_path / "a.zip", X, None))[0] == [None] * made.N


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not a list of labels"),
        ('{"other": 1}', "not a list of labels"),
        ('{"labels": [["00000/img00000000.png", 1]]}', "5 images have no label, the first is 00000/img00000001.png"),
        (made.edm_json([0, 1, 2, 3, 4, [0, 1]]), "label [0, 1] is no class number"),
        (made.edm_json([0, 1, 2, 3, 4, -1]), "label -1 is no class number"),
    ],
)
def test_a_bad_dataset_json_is_refused(text, said, tmp_path):
    folder = made.folder(tmp_path, made.edm_names(), X)
    (folder / "dataset.json").write_text(text)
    with pytest.raises(UserError, match="dataset.json") as caught:
        open_source(str(folder))
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert len(Images(path=str(folder), labels=False)) == made.N


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    made.folder(tmp_path / "far", ["x.png"], X[:1])
    made.folder(tmp_path / "set", ["a/y.png"], X[1:2])
    (tmp_path / "set/b").symlink_to(tmp_path / "far")
    (tmp_path / "set/a/again").symlink_to(tmp_path / "set")
    assert list(Folder(str(tmp_path / "set")).names) == ["a/y.png", "b/x.png"]


# -- damaged and unusual files ---------------------------------------------------------------------------------


def test_a_zip_member_whose_checksum_differs_is_corrupt(tmp_path):
    path = edm_zip(tmp_path)
    source = encoded(Zip(str(path)))
    raw = path.read_bytes()
    at = raw.index(source.raw(2)) + 60
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 255]) + raw[at + 1 :])
    with pytest.raises(Corrupt, match=r"edm.zip/00000/img00000002.png.*checksum"):
        encoded(Zip(str(path))).image(2)


@pytest.mark.parametrize("name", ["a.zip", "a.npz", "a.tar", "a.tar.gz"])
def test_a_file_of_something_else_is_refused_in_one_line(name, tmp_path):
    (tmp_path / name).write_bytes(b"something else" * 100)
    with pytest.raises(UserError, match=name) as caught:
        open_source(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "said"), [("none.zip", "no such file"), ("a.txt", "not known"), ("", "no images")])
def test_a_path_without_images_is_refused(name, said, tmp_path):
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(UserError, match=said):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"pictures": X}, "no array called images; there is pictures"),
        ({"images": X.astype(np.float32)}, "type float32"),
        ({"images": X[:, :, :, :2]}, "shape"),
        ({"images": X, "labels": np.zeros(made.N)}, "expected 6 integers"),
        ({"images": X, "labels": np.zeros(3, int)}, "expected 6 integers"),
        ({"images": np.array([{}], object)}, "plain arrays"),
    ],
)
def test_a_bad_npz_is_refused(arrays, said, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=said):
        open_source(str(tmp_path / "a.npz"))


def test_grey_palette_transparent_and_deep_images_become_rgb():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(pixels(Image.fromarray(grey), ""), np.repeat(grey[:, :, None], 3, 2))
    deep = Image.fromarray((grey.astype(np.uint16) << 8) + 255)
    assert np.array_equal(pixels(deep, "")[:, :, 1], grey)
    alpha = np.zeros((8, 8, 4), np.uint8)
    alpha[:4, :, 3] = 255
    assert pixels(Image.fromarray(alpha), "")[:, 0, 0].tolist() == [0] * 4 + [255] * 4
    coloured = Image.fromarray(X[0]).quantize(16)
    assert np.array_equal(pixels(coloured, ""), np.asarray(coloured.convert("RGB")))
    with pytest.raises(Corrupt, match="floating-point"):
        pixels(Image.fromarray(grey.astype(np.float32)), "a.tif")


@pytest.mark.parametrize("cut", [0, 20, 100])
def test_a_cut_image_is_corrupt_by_name(cut):
    with pytest.raises(Corrupt, match="a.png"):
        decode(made.png(X[0])[:cut], "a.png")


# -- LMDB ------------------------------------------------------------------------------------------------------


def test_an_lmdb_of_another_layout_is_refused_and_a_short_row_is_corrupt(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    path = made.lmdb_folder(tmp_path / "a", X)
    with lmdb.open(str(path), map_size=2**22) as env, env.begin(write=True) as write:
        write.put(b"images_1_data", b"short")
        write.delete(b"images_2_data")
    data = Lmdb(path=str(path))
    for i, reason in ((1, "5 bytes, not 192"), (2, "no such key")):
        with pytest.raises(Corrupt, match=reason):
            data[i]
    with pytest.raises(UserError, match="no key pictures_shape"):
        Lmdb(path=str(path), array="pictures")
    assert data[0].condition is None


# -- tar shards ------------------------------------------------------------------------------------------------


def test_the_index_of_a_tar_is_made_once_and_again_when_the_tar_changes(tmp_path, monkeypatch):
    folder, scans = shard_folder(tmp_path), []
    real = tar_index.scan
    monkeypatch.setattr(tar_index, "scan", lambda path: scans.append(path) or real(path))
    first, again = Shards(str(folder)), Shards(str(folder))
    assert len(scans) == 2 and [again.raw(i) for i in range(6)] == [first.raw(i) for i in range(6)]
    made.tar(folder / "set-000000.tar", [("new.png", made.png(X[5])), ("new.cls", b"3")])
    changed = Shards(str(folder))
    assert len(scans) == 3 and len(changed) == 3 and changed.name(0) == "set-000000.tar/new.png"
    tar_index.cached(str(folder / "set-000000.tar")).write_text("{}")
    assert len(Shards(str(folder))) == 3 and len(scans) == 4


def test_a_cut_shard_is_refused_wherever_it_is_cut(tmp_path):
    path = shard_folder(tmp_path) / "set-000000.tar"
    raw = path.read_bytes()
    for end in (100, 700, 1024, 1536, 2048, 4 * 2048):
        path.write_bytes(raw[:end])
        with pytest.raises(UserError, match=r"set-000000.tar: (cut short|not a whole tar)"):
            Shards(str(path))
    path.write_bytes(raw[:2048] + b"garbage!" * 64 + raw[2560:])
    with pytest.raises(UserError, match="damaged"):
        Shards(str(path))


def test_patterns_of_shards(tmp_path):
    folder = made.shards(tmp_path / "s", X, LABELS, per_shard=2)
    every = [str(folder / f"set-{k:06d}.tar") for k in range(3)]
    for pattern in ("", "/set-*.tar", "/set-{000000..000002}.tar", "/set-%06d.tar"):
        assert expand(f"{folder}{pattern}") == every
    with pytest.raises(UserError, match="set-000003.tar"):
        expand(f"{folder}/set-{{000000..000003}}.tar")


def test_the_image_and_the_label_of_a_sample_are_found_by_extension(tmp_path):
    members = [("a/1.seg.png", made.png(X[1])), ("a/1.jpg", made.png(X[0])), ("a/1.cls", b"4\n"), ("a/1.txt", b"a cat")]
    path = made.tar(tmp_path / "a.tar", members)
    data = WebDataset(path=str(path))
    assert len(data) == 1 and data[0].condition == 4 and np.array_equal(rgb(data.source, 0), X[0])
    assert np.array_equal(rgb(WebDataset(path=str(path), image="seg.png").source, 0), X[1])
    with pytest.raises(UserError, match="no class number"):
        WebDataset(path=str(path), label="txt")


def test_labels_that_some_samples_lack_are_refused(tmp_path):
    path = made.tar(tmp_path / "a.tar", [("1.png", made.png(X[0])), ("2.png", made.png(X[0])), ("2.cls", b"0")])
    with pytest.raises(UserError, match=r"1.png: has no .cls"):
        WebDataset(path=str(path))
    assert len(WebDataset(path=str(path), labels=False)) == 2


def test_shards_of_the_webdataset_library_are_read(tmp_path):
    library = pytest.importorskip("webdataset")
    with library.TarWriter(str(tmp_path / "a.tar")) as sink:
        for i, image in enumerate(X):
            sink.write({"__key__": f"s{i}", "png": made.png(image), "cls": LABELS[i]})
    data = WebDataset(path=str(tmp_path / "a.tar"))
    assert [data[i].condition for i in range(6)] == LABELS and np.array_equal(rgb(data.source, 5), X[5])


# -- Hugging Face ----------------------------------------------------------------------------------------------


def test_a_set_that_is_not_on_this_machine_is_not_asked_for(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setattr("socket.socket.connect", lambda *a: pytest.fail("a request left the machine"))
    with pytest.raises(UserError, match="not a data set on this machine"):
        HuggingFace(path="someone/pictures")
    with pytest.raises(UserError, match="no split test; there are train"):
        HuggingFace(path=str(hub(tmp_path)), split="test")
    with pytest.raises(UserError, match="no column photo; there are image, label"):
        HuggingFace(path=str(tmp_path / "hub"), image="photo")


def test_a_set_in_the_cache_is_found_by_its_name(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    rows = {"picture": [{"bytes": made.png(x), "path": None} for x in X], "label": LABELS}
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "a.parquet")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.load_dataset("parquet", data_files=str(tmp_path / "a.parquet"))
    built = next((tmp_path / "hf/parquet").glob("default-*/*/*/"))
    cached = tmp_path / "hf/someone___pictures/default/0.0.0/abc"
    cached.parent.mkdir(parents=True)
    built.rename(cached)
    (cached / "parquet-train.arrow").rename(cached / "pictures-train.arrow")
    data = HuggingFace(path="someone/pictures", image="picture")
    assert [data[i].condition for i in range(6)] == LABELS and np.array_equal(rgb(data.source, 4), X[4])


# -- fingerprints ----------------------------------------------------------------------------------------------


def test_a_fingerprint_is_that_of_the_files_wherever_they_are(tmp_path):
    (tmp_path / "moved").mkdir()
    folder, packed = edm_folder(tmp_path), edm_zip(tmp_path / "moved")
    found = fingerprint(open_source(str(folder)))
    assert found == fingerprint(open_source(str(packed)))
    labels = json.loads((folder / "dataset.json").read_text())
    labels["labels"][0][1] = 5
    (folder / "dataset.json").write_text(json.dumps(labels))
    assert fingerprint(open_source(str(folder))) != found


@pytest.mark.parametrize("build", [edm_folder, npz_last, shard_folder], ids=lambda f: f.__name__)
def test_other_pictures_of_the_same_size_have_another_fingerprint(build, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    found = fingerprint(open_source(str(build(tmp_path / "a"))))
    monkeypatch.setitem(globals(), "X", X[::-1])
    assert fingerprint(open_source(str(build(tmp_path / "b")))) != found
