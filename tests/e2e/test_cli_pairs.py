"""dmd2 pairs as a person runs it."""

import json
import os
from pathlib import Path

import pytest

from dmd2cli import recipe_files
from dmd2cli.data.pairs import Pairs

DIGITS = str(recipe_files.find("digits"))
COMMAND = ("pairs", DIGITS, "run.threads=1", "run.batch=8", "sampler.steps=8", "--shard-size", 16)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A fresh working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def test_pairs_are_made_once_and_are_a_data_set(dmd2):
    first = dmd2(*COMMAND, "-o", "p", "-n", 40)
    assert first.code == 0
    assert first.out.startswith("p: 40 pairs in 3 shard(s), 40 of them new, 15 network calls each, ")
    assert first.out.count("\n") == 1 and first.err.splitlines()[-1] == "pairs 40/40"
    found = Pairs("p")
    assert len(found) == 40 and [found[i].condition for i in range(12)] == [*range(10), 0, 1]
    assert found[0].x.shape == found[0].noise.shape == (1, 8, 8) and found[39].x.abs().max() < 2
    before = files("p")
    again = dmd2(*COMMAND, "-o", "p", "-n", 40, "--json")
    facts = json.loads(again.out)
    assert facts.pop("seconds") >= 0 and again.err == ""
    assert facts == {"out": "p", "n": 40, "made": 0, "shards": 3, "nfe": 15} and files("p") == before


def test_a_damaged_shard_is_made_again(dmd2):
    dmd2(*COMMAND, "-o", "p", "-n", 40)
    before = files("p")
    os.truncate("p/pairs-000000016.safetensors", 3000)
    done = dmd2(*COMMAND, "-o", "p", "-n", 40)
    assert done.code == 0 and "16 of them new" in done.out and files("p") == before
    assert done.err.startswith("p/pairs-000000016.safetensors: damaged; its pairs are made again\n")


def test_a_slice_has_the_pairs_of_the_whole_set(dmd2):
    dmd2(*COMMAND, "-o", "whole", "-n", 40)
    done = dmd2(*COMMAND, "-o", "slice", "-n", 16, "--first", 16)
    assert done.code == 0
    assert files("slice")["pairs-000000016.safetensors"] == files("whole")["pairs-000000016.safetensors"]


def test_seed_and_guidance_are_taken(dmd2):
    assert dmd2(*COMMAND, "-o", "p", "-n", 2, "--seed", 5, "--guidance", 3, "--device", "cpu").code == 0
    assert {"seed": 5, "guidance": 3.0}.items() <= Pairs("p").contract.items()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-n", 0], "-n 0: must be at least 1"),
        (["-n", 4, "--first", -1], "--first -1: must be at least 0"),
        (["-n", 4, "--shard-size", 0], "--shard-size 0: must be at least 1"),
        (["-n", 4, "--device", "gameboy"], "device 'gameboy' cannot be used: "),
        (["-n", 4, "sampler.use=edm_sde"], "override 'sampler.use=edm_sde': sampler: edm_sde adds noise of its"),
        (["-n", 4, "sampler.use=huen"], "override 'sampler.use=huen': sampler: unknown sampler 'huen'; did you"),
        (["-n", 4, "data.prompts.classes=11"], "override 'data.prompts.classes=11': data.prompts: label 10: the"),
    ],
)
def test_a_bad_wish_is_refused_in_one_line_before_a_pair_is_made(here, refused, args, said):
    assert refused(*COMMAND, "-o", "p", *args).startswith(said)
    assert not list(here.rglob("*.safetensors"))


def test_another_contract_in_the_folder_is_refused(dmd2, refused):
    dmd2(*COMMAND, "-o", "p", "-n", 4)
    before = files("p")
    assert refused(*COMMAND, "sampler.steps=4", "-o", "p", "-n", 4) == (
        "p: made with sampler.steps = 8, now it is 4; take the old value to continue, or another -o to start anew"
    )
    said = refused(*COMMAND, "-o", "p", "-n", 2)
    assert said == "p: holds pairs from 0 to 3 already; ask for --first 0 -n 4, or choose another -o"
    assert files("p") == before


@pytest.mark.parametrize("bad", ["file/below", "/proc/no-place"])
def test_a_place_that_cannot_be_written_is_named(here, refused, bad):
    (here / "file").write_text("just words\n")
    assert refused(*COMMAND, "-n", 4, "-o", bad).startswith(f"{bad}: cannot write there (")


@pytest.mark.parametrize("args", [["-n", "4"], ["-o", "p"]])
def test_folder_and_number_have_to_be_given(dmd2, args):
    done = dmd2(*COMMAND, *args)
    assert done.code == 2 and "Missing option" in done.err and "Traceback" not in done.err
