"""A real set drawn by a teacher: its images, captions and labels as data sets read them."""

import json
import zipfile
from dataclasses import replace

import encoders
import pytest
import torch
from encoders import CAPTIONS

from dmd2cli import registry
from dmd2cli.data.images import Images
from dmd2cli.engine import build
from dmd2cli.engine.generate import Share
from dmd2cli.engine.synth import make, order
from dmd2cli.errors import UserError
from dmd2cli.recipe import Recipe, load

CPU = torch.device("cpu")


def recipe(**matching):
    losses = {"distribution_matching": matching, "denoising": {}}
    parts = {"student": {"lr": 1e-3}, "critic": {"lr": 1e-3}, "losses": losses, "sampler": {"use": "ddim", "steps": 2}}
    return Recipe.model_validate({"teacher": "small", **parts, "run": {"steps": 9, "batch": 4}})


def synth(out, texts=CAPTIONS, n=12, mine=None, of=None, seed=5, **matching):
    with registry.override("teachers", "small", lambda: of or encoders.teacher()):
        return make(order(recipe(**matching), CPU, texts, n, seed, batch=4), out, mine or Share())


@pytest.mark.parametrize("name", ["set.zip", "set"])
def test_images_have_the_captions_they_were_drawn_for(tmp_path, name):
    facts = synth(tmp_path / name)
    assert (facts["n"], facts["made"], facts["complete"]) == (12, 12, True)
    data = Images(path=str(tmp_path / name), captions=True)
    assert [data[i].condition for i in range(12)] == [*CAPTIONS, *CAPTIONS[:2]]
    with registry.override("teachers", "small", encoders.teacher):
        source = build.teacher_source(recipe(), CPU)
    drawn = source.images([*CAPTIONS, *CAPTIONS[:2]], 5)
    assert torch.equal(torch.stack([data[i].x for i in range(12)]), drawn.float() / 127.5 - 1)
    assert synth(tmp_path / name)["made"] == 0


def test_a_folder_lists_names_and_captions_once_all_images_are_there(tmp_path):
    assert not synth(tmp_path / "set", mine=Share(0, 2))["complete"]
    assert not (tmp_path / "set" / "metadata.jsonl").exists()
    assert synth(tmp_path / "set", mine=Share(1, 2))["complete"]
    rows = [json.loads(line) for line in (tmp_path / "set" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[3] == {"file_name": "000003.png", "text": CAPTIONS[3]} and len(rows) == 12
    assert json.loads((tmp_path / "set" / "dataset.json").read_text())["labels"] is None


@pytest.mark.parametrize("name", ["set.zip", "set"])
def test_a_teacher_of_classes_gives_labels_all_classes_in_turn(tmp_path, name):
    asked = load("digits", ["sampler.steps=2", "run.threads=1"])
    facts = make(order(asked, CPU, None, 12, 0), tmp_path / name, Share())
    assert facts["nfe"] == 3
    data = Images(path=str(tmp_path / name))
    assert [data[i].condition for i in range(12)] == [*range(10), 0, 1]
    assert not list(tmp_path.rglob("metadata.jsonl"))
    with pytest.raises(UserError, match="teacher digits reads classes, not text; use --classes"):
        order(asked, CPU, ["a three"], 1, 0)


def test_guidance_is_that_of_the_recipe_unless_it_is_given(tmp_path):
    synth(tmp_path / "set.zip", n=1, guidance=3.0)
    with zipfile.ZipFile(tmp_path / "set.zip") as file:
        assert json.loads(file.read("dataset.json"))["made"]["made"]["guidance"] == 3.0
    with pytest.raises(UserError, match=r"made with guidance = 3.0, now it is 1.0"):
        synth(tmp_path / "set.zip", n=1)


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(UserError, match="teacher small has no list of classes; give --prompts FILE"):
        synth(tmp_path / "set", texts=None)
    with pytest.raises(UserError, match=r"set.npz: a set with captions or labels is a .zip or a folder"):
        synth(tmp_path / "set.npz")
    of = replace(encoders.teacher(), encode=lambda raw: ({}, {}))
    with pytest.raises(UserError, match="guidance 2: this teacher is unconditional; use --guidance 1"):
        synth(tmp_path / "set", texts=None, of=of, guidance=2.0)
    assert synth(tmp_path / "set", texts=None, of=of, n=2)["made"] == 2
