"""Teachers of the EDM family: contract, weights, labels, units of pixels, students."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from dmd2_plugins.edm.presets import PRESETS
from dmd2_plugins.edm.teacher import teacher

from dmd2cli import registry
from dmd2cli.core.random import Numbered
from dmd2cli.errors import UserError
from dmd2cli.samplers.edm_sde import EdmSde
from dmd2cli.samplers.few_step import FewStep
from dmd2cli.student import contract, load_student, save_student
from dmd2cli.testing import check_teacher
from dmd2cli.weights import save_weights

TINY = ("tiny-adm", "tiny-ddpmpp", "tiny-ncsnpp")


def refusal(**options):
    with pytest.raises(UserError) as caught:
        teacher(**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(path, name, config=None, **details):
    """A converted file of a preset, its weights from seed 5."""
    made = teacher(name, seed=5, skeleton={}).denoiser.state_dict()
    details = {"family": "edm", "config": config or PRESETS[name].config.json, **details}
    save_weights(made, path, {"details": json.dumps(details)})
    return path


@pytest.mark.parametrize("name", TINY)
def test_tiny_teachers_keep_the_contract(name):
    check_teacher(teacher(name))


def test_a_converted_file_is_loaded_and_told_of(tmp_path):
    path = written(tmp_path / "t.safetensors", "tiny-adm", preset="tiny-adm", source={"file": "x.pkl"})
    found = teacher("tiny-adm", str(path))
    wanted = teacher("tiny-adm", seed=5).denoiser.state_dict()
    assert all(v.equal(wanted[k]) for k, v in found.denoiser.state_dict().items())
    assert found.details["source"] == {"file": "x.pkl"} and found.details["preset"] == "tiny-adm"
    assert not any(p.requires_grad for p in found.denoiser.parameters()) and not found.denoiser.training


def test_dropout_of_the_file_is_not_used(tmp_path):
    config = {**PRESETS["tiny-adm"].config.json, "dropout": 0.5, "label_dropout": 0.1}
    found = teacher("tiny-adm", str(written(tmp_path / "t.safetensors", "tiny-adm", config)))
    assert found.denoiser.backbone.config.dropout == 0.0 == found.denoiser.backbone.config.label_dropout


def test_without_weights_a_published_teacher_says_which_file_and_what_to_do():
    said = refusal(preset="imagenet64")
    assert "edm-imagenet-64x64-cond-adm.pkl" in said and "NVIDIA" in said
    assert "dmd2 convert edm-imagenet-64x64-cond-adm.pkl -o imagenet64.safetensors" in said
    assert "teacher.weights=imagenet64.safetensors" in said


def test_files_that_do_not_fit_are_refused_in_one_line(tmp_path):
    fine = str(written(tmp_path / "fine.safetensors", "tiny-adm"))
    assert "set teacher.preset to tiny-adm" in refusal(preset="tiny-ddpmpp", weights=fine)
    assert "model_type" in refusal(preset="tiny-ddpmpp", weights=fine)
    other = str(written(tmp_path / "other.safetensors", "tiny-adm", preset="ffhq"))
    assert "set teacher.preset to ffhq" in refusal(preset="tiny-adm", weights=other)
    strange = str(written(tmp_path / "strange.safetensors", "tiny-adm", {"img_resolution": 16, "model_chanels": 3}))
    assert "did you mean 'model_channels'" in refusal(preset="tiny-adm", weights=strange)
    save_weights({"w": torch.zeros(1)}, tmp_path / "foreign.safetensors", {})
    assert "dmd2 convert" in refusal(preset="tiny-adm", weights=str(tmp_path / "foreign.safetensors"))
    assert "dmd2 convert edm.pkl -o edm.safetensors" in refusal(preset="imagenet64", weights="edm.pkl")
    said = refusal(preset="cifar10-cond", weights="none.safetensors")
    assert "dmd2 convert edm-cifar10-32x32-cond-vp.pkl -o none.safetensors" in said
    assert "weights, a file of `dmd2 convert`, or a preset" in refusal()


def test_without_a_preset_the_file_says_which_network_it_is(tmp_path):
    made, path = teacher("tiny-adm", seed=3), tmp_path / "own.safetensors"
    details = {"family": "edm", "preset": None, "config": made.details["config"]}
    save_weights(made.denoiser.state_dict(), path, {"details": json.dumps(details)})
    found = teacher(weights=str(path))
    assert found.details["config"] == made.details["config"] and found.shape == made.shape
    for a, b in zip(made.denoiser.parameters(), found.denoiser.parameters(), strict=True):
        assert a.equal(b)
    assert "no such file" in refusal(preset="tiny-adm", weights=str(tmp_path / "absent.safetensors"))
    assert "did you mean 'imagenet64'" in refusal(preset="imagenet-64")


def test_the_hub_is_its_local_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    said = refusal(preset="tiny-adm", repo="someone/edm", file="t.safetensors", revision="abc")
    assert "hf download someone/edm t.safetensors --revision abc" in said
    folder = tmp_path / "models--someone--edm"
    written(folder / "snapshots" / "1" / "t.safetensors", "tiny-adm")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("1")
    found = teacher("tiny-adm", repo="someone/edm", file="t.safetensors")
    assert found.details["family"] == "edm"
    assert "name the file" in refusal(preset="tiny-adm", repo="someone/edm")
    assert "exclude" in refusal(preset="tiny-adm", repo="someone/edm", file="f", weights="w")
    assert "belong to repo" in refusal(preset="tiny-adm", file="f")


def test_labels_are_one_hot_and_none_is_no_row():
    encode = teacher("tiny-adm").encode
    cond, null = encode([3, None])
    assert cond["label"].argmax(1)[0] == 3 and cond["label"].sum(1).tolist() == [1, 0] and not null["label"].any()
    for bad in (10, -1, "cat", 2.0):
        with pytest.raises(UserError, match="0 to 9"):
            encode([0, bad])


def test_an_unconditional_teacher_takes_no_notice_of_labels():
    found = teacher("tiny-ncsnpp")
    assert found.encode([3, None]) == ({}, {}) and found.conditions == ()
    assert found.guided_network is None
    with pytest.raises(UserError, match="unconditional"):
        found.encode(["a cat"])


def test_pixels_are_truncated_as_in_the_release():
    x = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 5.0]).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert teacher("tiny-adm").decode(x)[0, 0, 0].tolist() == [0, 0, 127, 254, 255, 255]


@torch.no_grad()
def test_a_guided_network_starts_as_the_teacher_and_reads_the_scale():
    found = teacher("tiny-ddpmpp")
    assert found.guided_network is not None
    network, (cond, _) = found.guided_network(), found.encode([1, 2])
    x, t = torch.randn(2, *found.shape), torch.full((2,), 0.5)
    for p in (*network.parameters(), *found.denoiser.parameters()):
        p.add_(0.05)
    plain = found.denoiser(x, t, cond)
    network.backbone.map_scale[2].weight.sub_(0.05)
    network.backbone.map_scale[2].bias.sub_(0.05)
    assert torch.allclose(network(x, t, {**cond, "guidance": torch.tensor([1.0, 4.0])}), plain, atol=1e-5)
    torch.nn.init.normal_(network.backbone.map_scale[2].weight)
    one, other = (network(x, t, {**cond, "guidance": torch.full((2,), s)}) for s in (1.0, 4.0))
    assert not torch.allclose(one, other, atol=1e-3)


def test_a_student_loads_without_the_weights_of_its_teacher(tmp_path):
    found = teacher("tiny-adm", seed=5)
    named = {"teacher": {"use": "edm-here", "preset": "tiny-adm", "weights": "gone.safetensors"}}
    about = contract(found, {**named, "teacher_sampler": {"use": "heun"}}, FewStep(), 1.0, {})
    save_student(tmp_path, found.denoiser, about)
    with registry.override("teachers", "edm-here", teacher):
        student = load_student(tmp_path)
    network = student.source.network.state_dict()
    assert all(v.equal(network[k]) for k, v in found.denoiser.state_dict().items())
    assert student([3, 4]).shape == (2, 3, 16, 16)


def test_an_empty_skeleton_is_the_network_without_memory():
    with torch.device("meta"):
        found = teacher("imagenet64", skeleton={})
    assert all(p.is_meta for p in found.denoiser.parameters())
    assert found.shape == (3, 64, 64) and len(found.conditions) == 1000
    assert float(found.schedule(torch.ones(1))[1]) == pytest.approx(80)


@torch.no_grad()
def test_the_papers_samplers_can_be_written_in_a_recipe():
    found = teacher("tiny-adm")
    sde = EdmSde(steps=4, churn=40.0, noise=1.003, ratio_min=0.05, ratio_max=50.0)
    noise = Numbered(0, [0, 1]).normal("noise", torch.empty(2, *found.shape))
    cond = found.encode([0, 1])[0]
    x = sde(lambda x_t, t: found.denoiser(x_t, t, cond), found.schedule, noise, Numbered(0, [0, 1]))
    assert x.isfinite().all() and sde.nfe == 7 and EdmSde(steps=256).nfe == 511


def test_presets_name_the_published_files():
    files = [preset.file for name, preset in PRESETS.items() if not name.startswith("tiny")]
    assert len(set(files)) == len(files) == 9 and all(file and Path(file).suffix == ".pkl" for file in files)
