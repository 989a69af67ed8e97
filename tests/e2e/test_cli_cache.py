"""dmd2 data cache and dmd2 data synth as a person runs them."""

import json
from pathlib import Path

import encoders
import pytest

from dmd2cli import registry
from dmd2cli.data.images import Images
from dmd2cli.data.latents import Latents


def teacher(model: str = "a"):
    """A model of its own for each name."""
    return encoders.teacher({"a": 0.5, "b": 0.6}[model])


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A fresh working folder with pictures and prompts, and a teacher for them."""
    monkeypatch.chdir(tmp_path)
    encoders.images(tmp_path / "pictures")
    encoders.prompts(tmp_path / "words.txt")
    with registry.override("teachers", "small", teacher):
        yield tmp_path


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def test_images_and_captions_are_encoded_once(dmd2):
    command = ("data", "cache", "small", "--data", "pictures", "-o", "c", "--shard-size", 4, "run.threads=1")
    first = dmd2(*command)
    assert first.code == 0, first.err
    assert first.out.startswith("c: 10 items in 3 shard(s), 10 of them new, ") and first.err == "items 10/10\n"
    found, before = Latents("c"), files("c")
    assert len(found) == 10 and found[3].condition == encoders.CAPTIONS[3] and found[3].x.shape == encoders.SHAPE
    again = json.loads(dmd2(*command, "--json").out)
    assert again["made"] == 0 and files("c") == before


def test_options_are_taken(dmd2):
    kinds = ("--latents", "mean", "--dtype", "bf16", "--no-text", "--device", "cpu")
    options = (*kinds, "--batch", 3, "--first", 4, "-n", 4)
    assert dmd2("data", "cache", "small", "--data", "pictures", "-o", "c", *options).code == 0
    found = Latents("c")
    assert len(found) == 4 and found[0].condition == encoders.CAPTIONS[4] and found[0].encoded is None
    asked = {"latents": "mean", "dtype": "bf16", "text": False, "teacher": {"use": "small"}, "seed": None}
    assert asked.items() <= found.store.contract.items()


def test_prompts_and_images_without_captions_are_encoded(dmd2):
    assert dmd2("data", "cache", "small", "--prompts", "words.txt", "-o", "p").code == 0
    assert Latents("p")[9].condition == encoders.CAPTIONS[9] and Latents("p")[9].x is None
    assert dmd2("data", "cache", "small", "--data", "pictures", "--no-captions", "-o", "c").code == 0
    assert Latents("c")[9].condition is None and Latents("c")[9].encoded.keys() == {"text", "size"}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "give either --data, images with their captions, or --prompts, a file of prompts"),
        (["--data", "pictures", "--prompts", "words.txt"], "give either --data"),
        (["--data", "no"], "no: no such file or folder"),
        (["--prompts", "no.txt"], "no.txt: no such file; expected a list of prompts"),
        (["--prompts", "words.txt", "--column", "text"], "words.txt: a text file has no column text"),
        (["--data", "pictures", "--latents", "mode"], "--latents mode: must be one of posterior, mean"),
        (["--data", "pictures", "--batch", 0], "--batch 0: must be at least 1"),
        (["--data", "pictures", "--first", -1], "--first -1: must be at least 0"),
        (["--data", "pictures", "-n", 11], "--first 0 -n 11: the data have items 0 to 9; ask for some of them"),
        (["--data", "pictures", "teacher.model=3"], "override 'teacher.model=3': teacher.model: must be"),
        (["--data", "pictures", "--device", "gameboy"], "device 'gameboy' cannot be used: "),
    ],
)
def test_a_bad_wish_is_refused_in_one_line(here, refused, args, said):
    assert refused("data", "cache", "small", "-o", "c", *args).startswith(said)
    assert not list(here.rglob("*.safetensors"))


def test_another_teacher_is_refused_and_one_that_is_not_there_named(dmd2, refused):
    command = ("data", "cache", "small", "--data", "pictures", "-o", "c")
    dmd2(*command)
    assert refused(*command, "teacher.model=b").startswith("c: made with teacher.model = None, now it is 'b'; take the")
    assert refused("data", "cache", "smal", "--data", "pictures", "-o", "d").startswith("smal: no such file, and no")
    said = refused("data", "cache", "digits", "--data", "pictures", "-o", "d")
    assert said.startswith("teacher digits works on pixels: there are no latents to keep")


RECIPE = """
teacher: small
student: {lr: 1.0e-3}
critic: {lr: 1.0e-3}
losses: {distribution_matching: {guidance: 2.0}, denoising: {}}
sampler: {use: ddim, steps: 2}
run: {steps: 4, batch: 4, threads: 1}
"""


def test_a_set_is_drawn_with_captions_and_encoded(dmd2, here):
    (here / "r.yaml").write_text(RECIPE)
    drawn = dmd2("data", "synth", "r.yaml", "--prompts", "words.txt", "-o", "s.zip", "-n", 12, "--steps", 3)
    assert drawn.code == 0, drawn.err
    assert drawn.out.startswith("s.zip: 12 images, 12 of them new, 3 network calls each, ")
    data = Images(path="s.zip", captions=True)
    assert [data[i].condition for i in range(12)] == [*encoders.CAPTIONS, *encoders.CAPTIONS[:2]]
    again = dmd2("data", "synth", "r.yaml", "--prompts", "words.txt", "-o", "s.zip", "-n", 12, "--steps", 3, "--json")
    assert json.loads(again.out)["made"] == 0
    assert dmd2("data", "cache", "r.yaml", "--data", "s.zip", "-o", "c").code == 0
    assert Latents("c")[11].condition == encoders.CAPTIONS[1]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-n", 0], "-n 0: must be at least 1"),
        (["-n", 1, "--batch", 0], "--batch 0: must be at least 1"),
        (["-n", 1, "--prompts", "words.txt", "--classes"], "--prompts and --classes exclude each other"),
        (["-n", 1, "--classes"], "teacher small has no list of classes; give --prompts FILE"),
        (["-n", 1], "teacher small has no list of classes; give --prompts FILE"),
        (["-n", 1, "--prompts", "words.txt", "--guidance", 2, "-o", "s.npz"], "-o s.npz: a set with captions or"),
    ],
)
def test_a_bad_set_is_refused_in_one_line(refused, here, args, said):
    (here / "r.yaml").write_text(RECIPE)
    assert refused("data", "synth", "r.yaml", "-o", "s", *args).startswith(said)


def test_prepared_images_keep_captions_if_asked(dmd2):
    assert dmd2("data", "prepare", "pictures", "-o", "a.zip", "--size", 4, "--captions", "--workers", 1).code == 0
    assert Images(path="a.zip", captions=True)[3].condition == encoders.CAPTIONS[3]
    assert dmd2("data", "prepare", "pictures", "-o", "b.zip", "--size", 4, "--workers", 1).code == 0
    assert Images(path="b.zip")[3].condition is None
