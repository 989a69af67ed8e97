"""Checkpoints of one file: the same networks as the folder they were made from, and clear lines for all others."""

import shutil
from pathlib import Path

import huggingface_hub
import original
import pytest
import torch
from dmd2_plugins.stable_diffusion import teacher as family
from safetensors.torch import load_file, save_file

from dmd2cli.errors import UserError

PROMPTS = ["a handwritten three", ""]
X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def single(pipe, tmp_path_factory):
    """Name -> a checkpoint of that tiny pipeline."""
    made = {}

    def file(name):
        if name not in made:
            made[name] = str(tmp_path_factory.mktemp("single") / f"{name}.safetensors")
            save_file(original.checkpoint(pipe(name)), made[name])
        return made[name]

    return file


def drawn(source):
    """What the parts of a teacher give: x_hat, text, images."""
    cond, null = source.encode(PROMPTS)
    with torch.no_grad():
        x_hat = source.denoiser(X, torch.tensor([1.0, 0.3]), cond)
        return [x_hat, *cond.values(), *null.values(), source.decoders["full"](X)]


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_a_single_file_is_the_folder_it_was_made_from(name, suffix, single, model, teacher, tmp_path):
    path = single(name)
    if suffix == "ckpt":
        torch.save({"state_dict": load_file(path), "global_step": 3}, tmp_path / "it.ckpt")
        path = str(tmp_path / "it.ckpt")
    found = getattr(family, name)(model=path, config=model(name), text=model(name))
    for ours, wanted in zip(drawn(found), drawn(teacher(name)), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)
    assert len(found.details["sha256"]) == 64 and found.details["prediction"] == "eps"


def test_marks_of_v_prediction_are_heeded(single, model, tmp_path):
    marked = load_file(single("sdxl")) | {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    save_file(marked, tmp_path / "v.safetensors")
    given = {"model": str(tmp_path / "v.safetensors"), "config": model("sdxl"), "text": model("sdxl")}
    found = family.sdxl(**given)
    assert found.details["prediction"] == "v" and found.schedule(torch.ones(1))[0] == 0
    assert family.sdxl(**given, prediction="eps", zero_snr=False).details["prediction"] == "eps"


def test_files_without_encoders_take_them_from_the_text_model(single, model, teacher, tmp_path):
    tensors = {k: v for k, v in load_file(single("sd15")).items() if k.startswith("model.diffusion_model.")}
    save_file(tensors, tmp_path / "bare.safetensors")
    found = family.sd15(model=str(tmp_path / "bare.safetensors"), config=model("sd15"), text=model("sd15"))
    for ours, wanted in zip(drawn(found), drawn(teacher("sd15")), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)


def test_tokenizers_are_asked_for(single, model, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"sd15.safetensors: a single file has no tokenizer; set teacher.text to a"):
        family.sd15(model=single("sd15"), config=model("sd15"))


def test_tokenizers_come_from_the_hub_cache_if_they_are_there(single, model, monkeypatch, tmp_path):
    from dmd2_plugins.stable_diffusion.folder import SD15

    snapshot = tmp_path / f"models--{SD15.replace('/', '--')}" / "snapshots" / "abc"
    shutil.copytree(model("sd15"), snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert family.sd15(model=single("sd15"), config=model("sd15")).encode(["a"])[0]["text"].shape == (1, 77, 32)


@pytest.mark.parametrize("name, other", [("sd15", "sdxl"), ("sdxl", "sd15")])
def test_a_file_of_the_other_family_is_named(name, other, single):
    with pytest.raises(UserError, match=f"{other}.safetensors: is a checkpoint of {other}, not of {name}; set te"):
        getattr(family, name)(model=single(other))


def test_other_files_are_refused_in_a_line(single, tmp_path):
    first = "model.diffusion_model.input_blocks.0.0.weight"
    others = {
        "sd3": ({"joint_blocks.0.context_block.adaLN_modulation.1.bias": torch.zeros(9216),
                 "pos_embed": torch.zeros(1, 36864, 2)}, "is of another family, sd3"),
        "inpainting": ({first: torch.zeros(320, 9, 3, 3)}, "is of another family, inpainting"),
        "lora": ({"lora_unet_mid_block.alpha": torch.zeros(1)}, "has another layout than Stable Diffusion's"),
        "diffusers": ({"conv_in.weight": torch.zeros(2)}, "has another layout than Stable Diffusion's"),
    }  # fmt: skip
    for name, (tensors, said) in others.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(UserError, match=f"{name}.safetensors: {said}; choose a file of sd15, or a"):
            family.sd15(model=str(tmp_path / f"{name}.safetensors"))
    with pytest.raises(UserError, match="a single file says too little of itself; set teacher.use: sd15 or sdxl"):
        family.diffusers(model=single("sd15"))


def test_broken_and_unsafe_files_are_refused_in_a_line(tmp_path, single):
    (tmp_path / "cut.safetensors").write_bytes(Path(single("sd15")).read_bytes()[:1000])
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    torch.save({"state_dict": {"a": 1}}, tmp_path / "empty.ckpt")
    torch.save({"state_dict": {"a": torch.zeros(1)}, "callback": Evil()}, tmp_path / "evil.ckpt")
    for name, said in (
        ("cut.safetensors", "not a whole safetensors file"),
        ("text.ckpt", "text.ckpt: holds more than tensors, or none, and is not loaded"),
        ("empty.ckpt", "holds no tensors by name"),
        ("evil.ckpt", "holds more than tensors, or none, and is not loaded; use its safetensors version"),
    ):
        with pytest.raises(UserError, match=said) as err:
            family.sd15(model=str(tmp_path / name))
        assert "\n" not in str(err.value)
    assert not Evil.ran


class Evil:
    """What a pickle can do."""

    ran = False

    def __reduce__(self):
        return (setattr, (Evil, "ran", True))


@pytest.mark.parametrize(
    "key, said",
    [
        ("model.diffusion_model.input_blocks.0.0.bias", r"hole.safetensors: cannot be loaded: .*"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", r".*its text_encoder lacks .*norm.bias"),
    ],
)
def test_a_file_with_a_hole_is_refused_in_a_line(key, said, single, model, tmp_path):
    tensors = load_file(single("sd15"))
    del tensors[key]
    save_file(tensors, tmp_path / "hole.safetensors")
    with pytest.raises(UserError, match=said + r".*; is it a fine-tune of another model\?"):
        family.sd15(model=str(tmp_path / "hole.safetensors"), config=model("sd15"), text=model("sd15")).encode(["a"])


def test_a_file_of_other_sizes_is_refused_in_a_line(single, model):
    """The published configuration does not fit the tiny file."""
    said = r"sd15.safetensors: cannot be loaded: .*; is it a fine-tune of another model\?"
    with pytest.raises(UserError, match=said) as err:
        family.sd15(model=single("sd15"), text=model("sd15"))
    assert "\n" not in str(err.value)


