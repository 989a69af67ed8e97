"""The released ImageNet-64 students become artefacts that `dmd2 sample --student` draws with."""

import json
from pathlib import Path

import pytest
import torch
from converting import command, published_names, randomised, refusal
from dmd2_plugins.edm.presets import find
from dmd2_plugins.edm.teacher import teacher

from dmd2cli import registry
from dmd2cli.student import load_student


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A fresh working folder, and the family's teacher."""
    monkeypatch.chdir(tmp_path)
    with registry.override("teachers", "edm", teacher):
        yield


def release(made, prefix="", old=False, **changes):
    """The generator as the release saves it."""
    found = {f"{prefix}{name}": tensor for name, tensor in published_names(made).items()} | changes
    torch.save(found, "pytorch_model.bin", _use_new_zipfile_serialization=not old)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
def test_a_converted_student_draws_what_one_call_at_sigma_80_gives(prefix, old):
    made = randomised("tiny-adm")
    release(made, prefix, old)
    code, out, err = command("pytorch_model.bin", "-o", "student.safetensors")
    assert code == 0 and "a DMD2 student, tiny-adm" in out and "0 unused" in out, err
    student = load_student("student.safetensors")
    noise, labels = student.source.noise(0, range(3)), torch.eye(10)[[1, 4, 2]]
    x = made(80 * noise, torch.ones(3), {"label": labels})
    assert made.schedule(torch.ones(1))[1] == 80
    assert student.source.latents([1, 4, 2], 0, range(3)).equal(x)
    assert student(labels=[1, 4, 2]).equal(((x + 1) * 127.5).clamp(0, 255).to(torch.uint8))


def test_its_contract_is_one_step_without_guidance_and_says_where_it_came_from():
    release(randomised("tiny-adm"))
    assert command("pytorch_model.bin", "-o", "student.safetensors")[0] == 0
    held = load_student("student.safetensors").contract
    assert held["steps"] == 1 and held["sampler"]["sigma_over_alpha"] == [80.0] and held["guidance"] == 1.0
    assert held["teacher"] == {"use": "edm", "preset": "tiny-adm"} and held["details"]["family"] == "edm"
    source = held["trained"]["converted"]
    assert source["file"] == "pytorch_model.bin" and len(source["sha256"]) == 64 and "CC BY-NC-SA" in source["licence"]
    assert load_student("student.safetensors").teacher().sampler.nfe == 35
    assert json.dumps(held)


def test_a_student_fits_the_first_preset_of_its_shapes_and_the_released_one_is_imagenet():
    from dmd2_plugins.edm.convert import expected
    from dmd2_plugins.edm.convert_student import preset_of

    for name in ("imagenet64", "cifar10-cond", "tiny-ncsnpp"):
        assert preset_of(expected(find(name).config)) == name
    assert preset_of({}) == "imagenet64"


def test_the_guidance_model_is_refused_and_the_right_file_is_named():
    tensors = published_names(randomised("tiny-adm"))
    held = {f"{player}_unet.{name}": tensor for player in ("real", "fake") for name, tensor in tensors.items()}
    held |= {"cls_pred_branch.0.weight": torch.ones(2), "karras_sigmas": torch.ones(9)}
    torch.save(held, "pytorch_model_1.bin")
    said = refusal("pytorch_model_1.bin")
    assert "teacher, fake score and GAN head" in said and "convert pytorch_model.bin of the same folder" in said


def test_a_student_that_does_not_fit_is_an_error():
    release(randomised("tiny-adm"), **{"model.more.bias": torch.ones(2)})
    assert "lacks model." in refusal("pytorch_model.bin")


@pytest.mark.parametrize("held", [{"a": torch.ones(2)}, [torch.ones(2)], {"optimizer": {"state": {}}}])
def test_other_files_of_torch_are_not_known(held):
    torch.save(held, "pytorch_model.bin")
    assert "not a checkpoint that is known here" in refusal("pytorch_model.bin")
    said = refusal("pytorch_model.bin", "--from", "edm-student")
    assert "lacks model." in said or "not a state dict" in said


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
def test_a_cut_file_is_refused(old):
    release(randomised("tiny-adm"), old=old)
    whole = Path("pytorch_model.bin").read_bytes()
    for size in (50, len(whole) // 2, len(whole) - 30):
        Path("cut.bin").write_bytes(whole[:size])
        assert "copy or download it again" in refusal("cut.bin")


def test_a_zip_of_something_else_is_not_known():
    import zipfile

    with zipfile.ZipFile("images.zip", "w") as file:
        file.writestr("a.txt", "hello")
    assert "not a checkpoint that is known here" in refusal("images.zip")
    with zipfile.ZipFile("images.zip", "w") as file:
        file.writestr("a/data.pkl", "hello")
    assert "not a whole file of torch.save" in refusal("images.zip")
