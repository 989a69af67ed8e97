"""dmd2 sample into many files: shared out by torchrun's variables, continued, packed."""

import json
import os
import subprocess
import sys

import numpy as np


def tree(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def drawing(folder, *more):
    return ["sample", "--teacher", "digits", "--steps", "2", "--batch", "3", "-n", "8", "-o", str(folder), *more]


def test_two_processes_write_the_files_of_one(dmd2, tmp_path):
    assert dmd2(*drawing(tmp_path / "one", "--device", "cpu")).code == 0
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "dmd2cli", *drawing(tmp_path / "two", "--device", "cpu", "--json")],
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    first, second = (process.communicate()[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert json.loads(first)["made"] == 5 and second == ""
    assert tree(tmp_path / "two") == tree(tmp_path / "one")


def test_the_same_command_again_says_how_much_was_new(dmd2, tmp_path):
    command = drawing(tmp_path / "out")
    assert ", 5 of them new" not in dmd2(*command).out
    for i in range(5):
        (tmp_path / "out" / f"{i:06d}.png").unlink()
    assert dmd2(*command).out.endswith(", 5 of them new\n")
    done = dmd2(*command, "--seed", "1")
    assert done.code == 2 and done.err == (
        f"dmd2: error: {tmp_path}/out/000000.png: made with seed = 0, now it is 1; "
        "take the old value to continue, or choose another -o\n"
    )


def test_an_npz_holds_what_the_folder_holds(dmd2, tmp_path):
    assert dmd2(*drawing(tmp_path / "out.npz")).code == 0
    found = np.load(tmp_path / "out.npz")
    assert found["arr_0"].shape == (8, 8, 8, 3) and found["arr_1"].tolist() == list(range(8))


def test_a_packed_file_has_a_place_that_can_be_written(dmd2, tmp_path):
    (tmp_path / "file").write_text("words")
    done = dmd2(*drawing(tmp_path / "file" / "out.zip"))
    assert done.code == 2 and "cannot be written" in done.err
    (tmp_path / "folder.zip").mkdir()
    done = dmd2(*drawing(tmp_path / "folder.zip"))
    assert done.code == 2 and "is there already, not made by dmd2 sample" in done.err
