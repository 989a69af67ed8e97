"""dmd2 data check: counts, sizes, labels, range, corrupt files by name."""

import json

import image_files as made
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dmd2cli.cli.data import app
from dmd2cli.data.check import check
from dmd2cli.data.sources.detect import open_source
from dmd2cli.errors import UserError

X, LABELS = made.values(), [2, 0, 1, 2, 0, 7]


def command(*arguments):
    return CliRunner().invoke(app, ["check", *map(str, arguments), "--workers", "1"])


def test_the_numbers_are_those_of_the_images(tmp_path):
    found = check(open_source(str(made.edm_zip(tmp_path / "a.zip", X, LABELS))))
    assert (found["format"], found["images"], found["usable"], found["corrupt"]) == ("zip", 6, 6, [])
    assert found["sizes"] == {"8x8": 6} and found["modes"] == {"RGB": 6}
    assert found["labels"] == {"0": 2, "1": 1, "2": 2, "7": 1} and found["range"] == [int(X.min()), int(X.max())]
    assert found["mean"] == pytest.approx(X.reshape(-1, 3).mean(0).tolist(), abs=1e-3)
    assert found["std"] == pytest.approx(X.reshape(-1, 3).std(0).tolist(), abs=1e-3)


def test_any_number_of_workers_counts_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("dmd2cli.data.check.PART", 2)
    folder = made.folder(tmp_path, [f"{i}/{i}.png" for i in range(6)], [*X[:5], X[0]])
    made.spoil(folder / "3/3.png")
    source = open_source(str(folder))
    assert check(source, 2, duplicates=True) == check(source, 1, duplicates=True)


def test_a_mixed_folder_is_told_with_all_that_is_wrong(tmp_path):
    made.folder(tmp_path, ["a/0.png", "a/1.png", "b/2.png"], [X[0], made.values(1, 9)[0], X[2]])
    Image.fromarray(X[3][:, :, 0]).save(tmp_path / "b/grey.jpg")
    made.spoil(tmp_path / "b/2.png")
    done = command(tmp_path)
    assert isinstance(done.exception, UserError)                     # exit code 2 of the command line
    assert str(done.exception).startswith(f"{tmp_path}: 1 of 4 images are corrupt")
    for said in ("4, 1 of them corrupt", "8x8: 2, 9x9: 1", "RGB: 2, L: 1", "2 classes of 1 to 2 images", "b/2.png: ",
                 "dmd2 data prepare"):                               # fmt: skip
        assert said in done.output


def test_json_has_everything_and_duplicates_only_if_asked(tmp_path):
    folder = made.folder(tmp_path, ["0.png", "1.png", "2.png"], [X[0], X[1], X[0]])
    plain = command(folder, "--json")
    assert plain.exit_code == 0 and "duplicates" not in json.loads(plain.stdout)
    assert json.loads(command(folder, "--json", "--duplicates").stdout)["duplicates"] == [["0.png", "2.png"]]
    assert "0.png, 2.png" in command(folder, "--duplicates").stdout


def test_a_set_without_a_usable_image_says_so(tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    done = command(tmp_path)
    assert isinstance(done.exception, UserError) and "1 of 1 images are corrupt" in str(done.exception)
    assert "values       none" in done.output
    (tmp_path / "a.png").unlink()
    assert "no images in it" in str(command(tmp_path).exception)


def test_labels_that_leave_numbers_out_are_told(tmp_path):
    assert "4 classes of 1 to 2 images, 4 numbers below the highest unused" in command(
        made.edm_zip(tmp_path / "a.zip", X, LABELS)).output
    np.savez(tmp_path / "b.npz", images=X)
    assert "labels       none" in command(tmp_path / "b.npz").output


def test_the_commands_import_no_torch(tmp_path):
    import subprocess
    import sys

    made.folder(tmp_path / "raw", ["0.png"], X[:1])
    code = (
        "import sys; from dmd2cli.cli.data import app\n"
        f"app(['prepare', r'{tmp_path}/raw', '-o', r'{tmp_path}/a.zip'], standalone_mode=False)\n"
        f"app(['check', r'{tmp_path}/a.zip'], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
