"""Captions of images as conditions: where each format keeps them, and what may be wrong with them."""

import io
import json
import zipfile

import encoders
import image_files as made
import pytest
from encoders import CAPTIONS, N

from dmd2cli.data.images import HuggingFace, Images, Lmdb, WebDataset
from dmd2cli.data.pack import Target
from dmd2cli.data.prepare import Options, prepare
from dmd2cli.data.sources.detect import open_source
from dmd2cli.data.sources.source import fingerprint
from dmd2cli.errors import UserError
from dmd2cli.testing import check_dataset

X = made.values(N)


def conditions(data):
    return [data[i].condition for i in range(len(data))]


@pytest.fixture
def folder(tmp_path):
    return encoders.images(tmp_path / "images")


def zipped(path, folder):
    with zipfile.ZipFile(path, "w") as file:
        for member in sorted(folder.rglob("*.*")):
            file.write(member, f"top/{member.relative_to(folder)}")
    return path


def shards(path, caption=lambda i: (f"{i:04d}.txt", CAPTIONS[i].encode())):
    """Tars of four images, each with a class and what `caption` says."""
    path.mkdir()
    for k in range(0, N, 4):
        members = []
        for i in range(k, min(k + 4, N)):
            members += [(f"{i:04d}.png", made.png(X[i])), (f"{i:04d}.cls", b"1"), caption(i)]
        made.tar(path / f"set-{k:06d}.tar", [member for member in members if member])
    return path


def hub(path, **columns):
    import datasets

    rows = {"image": [{"bytes": made.png(x), "path": None} for x in X], "label": [1] * N, **columns}
    features = {"image": datasets.Image(), "label": datasets.Value("int64")}
    features |= {name: datasets.Value("string" if isinstance(v[0], str) else "int64") for name, v in columns.items()}
    datasets.Dataset.from_dict(rows, datasets.Features(features)).save_to_disk(path)
    return path


def test_a_text_file_beside_each_image_is_its_caption(tmp_path, folder):
    for path in (folder, zipped(tmp_path / "a.zip", folder)):
        data = Images(path=str(path), captions=True)
        check_dataset(data)
        assert conditions(data) == [data.condition(i) for i in range(N)] == CAPTIONS
        assert conditions(Images(path=str(path))) == [None] * N
        assert conditions(Images(path=str(path), captions=True, mirror=True)) == CAPTIONS * 2


def test_a_list_beside_the_images_says_their_captions(tmp_path):
    names = [f"part{i % 2}/{i}.png" for i in range(N)]
    made.folder(tmp_path / "a", names, X)
    for part in range(2):
        rows = [{"file_name": f"{i}.png", "text": CAPTIONS[i], "n": i} for i in range(part, N, 2)]
        lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (tmp_path / f"a/part{part}/metadata.jsonl").write_text(lines, encoding="utf-8")
    wanted = [CAPTIONS[i] for i in [*range(0, N, 2), *range(1, N, 2)]]
    for path in (tmp_path / "a", zipped(tmp_path / "a.zip", tmp_path / "a")):
        assert conditions(Images(path=str(path), captions=True)) == wanted
        assert set(conditions(Images(path=str(path)))) == {0, 1}, "labels are those of the folders"
        with pytest.raises(UserError, match=r"metadata.jsonl:1: n is 0, no text"):
            Images(path=str(path), captions="n")
        with pytest.raises(UserError, match=r"no column words; there are file_name, text, n; say which holds the cap"):
            Images(path=str(path), captions="words")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a cat", "metadata.jsonl:1: not JSON"),
        ('{"text": "a"}', "metadata.jsonl:1: no file_name"),
        ('{"file_name": "0.png", "text": "a"}', "9 images have no caption, the first is 1.png; add a line for it"),
    ],
)
def test_a_list_that_is_wrong_is_one_line(folder, line, said):
    (folder / "metadata.jsonl").write_text(line)
    with pytest.raises(UserError, match=said):
        Images(path=str(folder), captions=True)


def test_images_without_captions_are_named(folder):
    (folder / "7.txt").unlink()
    with pytest.raises(UserError, match=r"images: 1 images have no caption, the first is 7.txt; add that file"):
        Images(path=str(folder), captions=True)
    for path in folder.glob("*.txt"):
        path.unlink()
    with pytest.raises(UserError, match=r"images: no captions: neither metadata.jsonl nor 0.txt is there; add them"):
        Images(path=str(folder), captions=True)
    (folder / "0.txt").write_bytes(b"\xff")
    for i in range(1, N):
        (folder / f"{i}.txt").write_text("a")
    with pytest.raises(UserError, match=r"0.txt: no UTF-8 text \(byte 0\); save it as UTF-8"):
        Images(path=str(folder), captions=True)[0]


def test_members_of_tar_shards_are_captions(tmp_path):
    plain, rows = shards(tmp_path / "plain"), tmp_path / "rows"
    shards(rows, lambda i: (f"{i:04d}.json", json.dumps({"caption": CAPTIONS[i], "alt": f"{i}"}).encode()))
    for path in (plain, rows):
        for data in (Images(path=str(path), captions=True), WebDataset(path=str(path), captions=True)):
            check_dataset(data)
            assert conditions(data) == CAPTIONS
        assert conditions(Images(path=str(path))) == [1] * N, "labels are read as before"
    assert conditions(WebDataset(path=str(rows), captions="alt")) == [str(i) for i in range(N)]
    assert conditions(WebDataset(path=str(rows), captions="json")) == CAPTIONS
    with pytest.raises(UserError, match=r"0000.json: no column words; there are caption, alt"):
        WebDataset(path=str(rows), captions="words")[0]


def test_an_image_of_a_tar_without_a_caption_is_named(tmp_path):
    path = shards(tmp_path / "a", lambda i: (f"{i:04d}.txt", b"a") if i != 5 else None)
    with pytest.raises(UserError, match=r"set-000004.tar/0005.png: has no caption, neither .txt nor .json; add it"):
        WebDataset(path=str(path), captions=True)
    assert len(WebDataset(path=str(path))) == N


def test_a_column_of_a_hugging_face_set_is_the_caption(tmp_path):
    path = str(hub(tmp_path / "hub", text=CAPTIONS, n=list(range(N))))
    for data in (Images(path=path, captions=True), HuggingFace(path=path, captions="text")):
        check_dataset(data)
        assert conditions(data) == CAPTIONS
    assert conditions(HuggingFace(path=path)) == [1] * N
    with pytest.raises(UserError, match="no column words; there are image, label, text, n; say which"):
        HuggingFace(path=path, captions="words")
    with pytest.raises(UserError, match=r"hub/\[0\]: n is 0, no text; name another column"):
        HuggingFace(path=path, captions="n")[0]


def test_formats_without_captions_say_so(tmp_path):
    path = str(made.lmdb_folder(tmp_path / "lmdb", made.values()))
    with pytest.raises(UserError, match=r"images of this format \(lmdb\) have no captions here; leave captions out"):
        Images(path=path, captions=True)
    assert not hasattr(Lmdb(path=path), "captions")


def test_captions_take_the_place_of_labels(folder):
    with pytest.raises(UserError, match="classes counts class labels, and captions takes captions"):
        Images(path=str(folder), captions=True, classes=3)


def test_a_fingerprint_tells_captions_apart_and_is_what_it_was_without(folder):
    before = [fingerprint(open_source(str(folder), captions=wanted)) for wanted in (False, True)]
    (folder / "4.txt").write_text("another")
    after = [fingerprint(open_source(str(folder), captions=wanted)) for wanted in (False, True)]
    assert before[0] == after[0] and len({*before, *after}) == 3


@pytest.mark.parametrize("out", ["out.zip", "out", "out-%06d.tar"])
def test_prepared_images_keep_their_captions(tmp_path, folder, out):
    target = Target(tmp_path / out, 4)
    prepare(open_source(str(folder), captions=True), target, Options(size=4))
    data = Images(path=str(tmp_path / out), captions=True)
    assert conditions(data) == CAPTIONS and data[0].x.shape == (3, 4, 4)
    assert prepare(open_source(str(folder), captions=True), target, Options(size=4))["made"] == 0
    with pytest.raises(UserError, match="made from other raw data"):
        prepare(open_source(str(folder)), target, Options(size=4))


def test_a_zip_of_captions_is_what_hugging_face_reads(tmp_path, folder):
    prepare(open_source(str(folder), captions=True), Target(tmp_path / "a.zip"), Options())
    with zipfile.ZipFile(tmp_path / "a.zip") as file:
        rows = [json.loads(line) for line in io.TextIOWrapper(file.open("metadata.jsonl"), encoding="utf-8")]
        assert {row["file_name"]: row["text"] for row in rows} == dict(zip(made.edm_names(N), CAPTIONS, strict=True))
        assert json.loads(file.read("dataset.json"))["labels"] is None
