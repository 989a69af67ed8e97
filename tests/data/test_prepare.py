"""dmd2 data prepare: the filters of the protocols, the same bytes every time, continued after a kill."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import image_files as made
import numpy as np
import pytest
from PIL import Image

from dmd2cli.data import prepare as preparing
from dmd2cli.data.images import Images
from dmd2cli.data.pack import Target
from dmd2cli.data.prepare import Options, prepare
from dmd2cli.data.resize import adm, middle, squared
from dmd2cli.data.sources.detect import open_source
from dmd2cli.data.sources.source import rgb
from dmd2cli.errors import UserError

OUTPUTS = ["out.zip", "out", "out-%06d.tar"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DMD2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(preparing, "PART", 4)


@pytest.fixture
def raw(tmp_path):
    """Ten photographs of several shapes, in two classes."""
    drawn = np.random.default_rng(0)
    sides = [(30, 20), (20, 31), (16, 16), (40, 40), (17, 50)] * 2
    images = [drawn.integers(0, 256, (h, w, 3), dtype=np.uint8) for w, h in sides]
    made.folder(tmp_path / "raw", [f"{'ab'[i % 2]}/{i}.png" for i in range(10)], images)
    return tmp_path / "raw"


def run(raw, out, options=None, per_shard=4, **more):
    return prepare(open_source(str(raw)), Target(out, per_shard), options or Options(8), **more)


def content(path):
    """SHA-256 of everything at a path or pattern."""
    files = sorted(path.parent.glob(path.name.replace("%06d", "*"))) if "%" in path.name else [path]
    every = [f for file in files for f in (sorted(file.rglob("*")) if file.is_dir() else [file]) if f.is_file()]
    return [(f.name, hashlib.sha256(f.read_bytes()).hexdigest()) for f in every]


# -- filters ---------------------------------------------------------------------------------------------------


def picture(width, height):
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("shape", [(20, 20), (31, 20), (20, 33), (8, 9)])
@pytest.mark.parametrize("how", ["lanczos", "box", "bicubic"])
def test_the_square_in_the_middle_is_reduced_by_the_filter(how, shape):
    image, side = picture(*shape), min(shape)
    left, upper = (shape[0] - side) // 2, (shape[1] - side) // 2
    cropped = Image.fromarray(np.asarray(image)[upper : upper + side, left : left + side])
    expected = cropped.resize((8, 8), getattr(Image.Resampling, how.upper()))
    assert np.array_equal(squared(image, 8, "", how), expected)


def test_a_pixel_left_over_is_on_the_right_or_below():
    assert middle(9, 4, 4) == (2, 0, 6, 4) and middle(4, 7, 4) == (0, 1, 4, 5)


def test_adm_halves_with_a_box_then_goes_bicubic_then_crops():
    image = picture(60, 42)
    twice = image.resize((30, 21), Image.Resampling.BOX).resize((15, 10), Image.Resampling.BOX)
    scaled = twice.resize((12, 8), Image.Resampling.BICUBIC)
    assert np.array_equal(adm(image, 8), np.asarray(scaled)[:, 2:10])
    assert adm(picture(5, 9), 8).size == (8, 8)


def test_adm_averages_blocks_where_the_factor_is_a_power_of_two():
    image = picture(32, 32)
    step = np.asarray(image.resize((16, 16), Image.Resampling.BOX).resize((8, 8), Image.Resampling.BOX))
    assert np.array_equal(adm(image, 8), step)


def test_what_has_the_size_already_is_not_filtered():
    image = picture(8, 8)
    assert all(np.array_equal(squared(image, 8, "", how), image) for how in ("lanczos", "box", "bicubic", "adm"))
    assert squared(picture(9, 5), None, "").size == (5, 5)


def test_an_oblong_image_is_refused_without_crop():
    with pytest.raises(UserError, match=r"a.png: 9 x 5 is no square; use --crop center"):
        squared(picture(9, 5), 8, "a.png", crop=False)


# -- what is written -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", OUTPUTS)
def test_prepared_images_are_read_back_with_their_labels(out, raw, tmp_path):
    facts = run(raw, tmp_path / out)
    assert (facts["images"], facts["made"], facts["corrupt"]) == (10, 10, [])
    data, source = Images(path=str(tmp_path / out), size=8), open_source(str(raw))
    assert [data[i].condition for i in range(10)] == [source.label(i) for i in range(10)] == [0] * 5 + [1] * 5
    for i in range(10):
        expected = squared(Image.fromarray(rgb(source, i)), 8, "")
        assert np.array_equal(rgb(data.source, i), expected)
    assert not list(tmp_path.glob(".*"))


def test_the_zip_is_as_edm_has_it(raw, tmp_path):
    run(raw, tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as file:
        assert file.namelist() == [*made.edm_names(10), "dataset.json"]
        assert {member.compress_type for member in file.infolist()} == {zipfile.ZIP_STORED}
        listed = json.loads(file.read("dataset.json"))
    assert listed["labels"] == [[name, i // 5] for i, name in enumerate(made.edm_names(10))]
    assert listed["made"] == listed["made"] | {"size": 8, "filter": "lanczos", "crop": "center", "images": 10}


def test_shards_hold_so_many_images_and_say_how_they_were_made(raw, tmp_path):
    run(raw, tmp_path / "out-%06d.tar")
    names = []
    for k in range(3):
        with tarfile.open(tmp_path / f"out-{k:06d}.tar") as file:
            names.append([member.name for member in file])
    assert list(map(len, names)) == [8, 8, 4] and names[1][:2] == ["00000004.png", "00000004.cls"]
    listed = json.loads((tmp_path / "out.json").read_text())
    assert listed["images"] == 10 and listed["shards"] == [f"out-{k:06d}.tar" for k in range(3)]
    with pytest.raises(UserError, match=r"NAME-%06d.tar"):
        run(raw, tmp_path / "one.tar")
    run(raw, tmp_path / "all.tar", per_shard=10)
    assert len(Images(path=str(tmp_path / "all.tar"))) == 10


@pytest.mark.parametrize("out", OUTPUTS)
def test_two_runs_write_the_same_bytes_whatever_the_number_of_workers(out, raw, tmp_path):
    for k, workers in ((0, 1), (1, 2)):
        (tmp_path / str(k)).mkdir()
        run(raw, tmp_path / str(k) / out, workers=workers)
    assert content(tmp_path / "0" / out) == content(tmp_path / "1" / out)


def test_labels_can_be_dropped_and_images_keep_their_size_unless_asked(tmp_path):
    path = made.edm_zip(tmp_path / "a.zip", made.values(), list(range(6)))
    run(path, tmp_path / "b.zip", Options(labels="none"))
    data = Images(path=str(tmp_path / "b.zip"))
    assert data[3].condition is None and data[3].x.equal(Images(path=str(path))[3].x)


def test_an_archive_of_cifar_becomes_a_zip(tmp_path):
    path = made.cifar_archive(tmp_path / "c.tar.gz", made.cifar_values())
    assert run(path, tmp_path / "c.zip", Options())["images"] == 10
    packed, original = Images(path=str(tmp_path / "c.zip"), size=32), Images(path=str(path))
    assert all(packed[i].x.equal(original[i].x) and packed[i].condition == original[i].condition for i in range(10))


# -- corrupt images --------------------------------------------------------------------------------------------


def test_corrupt_images_are_named_left_out_and_leave_a_gap(raw, tmp_path, capsys):
    made.spoil(raw / "a/2.png")
    facts = run(raw, tmp_path / "out.zip")
    assert facts["images"] == 9 and [Path(name).name for name in facts["corrupt"]] == ["2.png"]
    assert "raw/a/2.png: left out" in capsys.readouterr().err
    names = zipfile.ZipFile(tmp_path / "out.zip").namelist()
    assert "00000/img00000001.png" not in names and "00000/img00000009.png" in names


def test_too_many_corrupt_images_stop_it_and_a_higher_limit_goes_on(raw, tmp_path):
    for name in ("a/2.png", "a/4.png", "b/9.png"):
        made.spoil(raw / name)
    with pytest.raises(UserError, match=r"corrupt, as 1 others are; mend them, or raise --max-corrupt 1 to 2"):
        run(raw, tmp_path / "out.zip", max_corrupt=1)
    assert not (tmp_path / "out.zip").exists()
    facts = run(raw, tmp_path / "out.zip", max_corrupt=3)
    assert facts["images"] == 7 and facts["made"] == 6           # the first part of four was there


# -- continued, refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", OUTPUTS)
def test_an_interrupted_run_continues_and_gives_the_same_bytes(out, raw, tmp_path, monkeypatch, capsys):
    (tmp_path / "whole").mkdir()
    run(raw, tmp_path / "whole" / out)
    real, begun = preparing.write_part, []

    def interrupted(*arguments):
        begun.append(arguments)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(preparing, "write_part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(raw, tmp_path / out)
    assert "the same command continues" in capsys.readouterr().err and not (tmp_path / out).exists()
    assert run(raw, tmp_path / out)["made"] == 6
    assert content(tmp_path / out) == content(tmp_path / "whole" / out)
    assert run(raw, tmp_path / out)["made"] == 0


@pytest.mark.parametrize("out", OUTPUTS)
def test_a_run_that_dies_while_it_packs_leaves_nothing_half_written(out, raw, tmp_path, monkeypatch):
    real = preparing.records

    def dying(folder, parts):
        for k, record in enumerate(real(folder, parts)):
            if k == 6:
                raise OSError("the disk is full")
            yield record

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "records", dying)
        with pytest.raises(OSError, match="full"):
            run(raw, tmp_path / out)
    assert not [path for path in tmp_path.glob("out*")]
    assert run(raw, tmp_path / out)["made"] == 0 and len(Images(path=str(tmp_path / out))) == 10


def test_a_part_that_is_cut_is_made_again(raw, tmp_path, monkeypatch):
    run(raw, tmp_path / "whole.zip")
    with monkeypatch.context() as patch:
        patch.setattr(Target, "write", lambda *a: (_ for _ in ()).throw(OSError("no")))
        with pytest.raises(OSError, match="no"):
            run(raw, tmp_path / "out.zip")
    cut = tmp_path / ".out.zip.parts/000000004.bin"
    cut.write_bytes(cut.read_bytes()[:-1])
    assert run(raw, tmp_path / "out.zip")["made"] == 4
    assert (tmp_path / "out.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()


@pytest.mark.parametrize("out", OUTPUTS)
def test_other_options_or_other_data_are_not_mixed_in(out, raw, tmp_path, monkeypatch):
    run(raw, tmp_path / out)
    with pytest.raises(UserError, match="made with filter lanczos, now it is box; set it back, or choose another -o"):
        run(raw, tmp_path / out, Options(8, "box"))
    (tmp_path / "b").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Target, "write", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(raw, tmp_path / "b" / out)
    with pytest.raises(UserError, match="made with size 8, now it is 9"):
        run(raw, tmp_path / "b" / out, Options(9))
    (raw / "a/0.png").write_bytes(made.png(made.values(1, 16)[0]))
    for place in (tmp_path, tmp_path / "b"):
        with pytest.raises(UserError, match="made from other raw data, or they have changed"):
            run(raw, place / out)


@pytest.mark.parametrize("out", OUTPUTS)
def test_what_is_there_already_is_not_overwritten(out, raw, tmp_path):
    there = tmp_path / out.replace("%06d", "000001")
    if out == "out":
        there.mkdir()
        (there / "mine.txt").write_text("precious")
    else:
        there.write_bytes(b"precious")
    with pytest.raises(UserError, match="is there already"):
        run(raw, tmp_path / out)


@pytest.mark.parametrize(("name", "value"), [("filter", "nearest"), ("crop", "left"), ("labels", "some"), ("size", 0)])
def test_unknown_options_are_refused(name, value):
    with pytest.raises(UserError, match=f"--{name} {value}"):
        Options(**{name: value})


def test_a_command_that_is_killed_leaves_no_workers_and_is_continued(tmp_path):
    raw = made.folder(tmp_path / "raw", [f"{i:04d}.png" for i in range(2500)], made.values(1)[:1].repeat(2500, 0))
    command = [sys.executable, "-c", "from dmd2cli.cli.data import app; app()", "prepare", str(raw), "-o"]
    command += [str(tmp_path / "out.zip"), "--size", "4", "--workers", "2"]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    parts, deadline = tmp_path / ".out.zip.parts", time.monotonic() + 60
    while not list(parts.glob("0*.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    workers = children(first.pid)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert workers and not (tmp_path / "out.zip").exists()
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(alive, workers))
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout)
    assert facts["images"] == 2500 and 0 <= facts["made"] <= 2000
    assert "images 2500/2500" in done.stderr or facts["made"] == 0


def children(pid):
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in listed.read_text().split()] if listed.exists() else pytest.skip("needs /proc")


def alive(pid):
    try:
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
