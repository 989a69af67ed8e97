"""Where models are looked for, and the one line that is said where there is none. Nothing is ever downloaded."""

import json
import shutil

import huggingface_hub
import pytest
import tiny_pipelines as tiny
import torch
from dmd2_plugins.stable_diffusion import teacher as family
from dmd2_plugins.stable_diffusion.folder import SD15, SDXL

from dmd2cli.errors import UserError


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty hub cache; called with name and folder it puts a model there."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(name, folder, ref="main"):
        home = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, home / "snapshots" / "abc123")
        (home / "refs").mkdir()
        (home / "refs" / ref).write_text("abc123")

    return put


def said(**options):
    with pytest.raises(UserError) as err:
        family.sd15(**options)
    assert "\n" not in str(err.value)
    return str(err.value)


def test_absent_models_of_the_hub_are_named_with_the_command_that_fetches_them(hub):
    includes = '--include "*.json" "*.txt" "*.fp16.safetensors"'
    assert said() == f"{SD15}: not in the local hub cache; get it with `hf download {SD15} {includes}`"
    with pytest.raises(UserError, match=f"^{SDXL}: not in the local hub cache; get it with `hf download {SDXL} --inc"):
        family.sdxl()
    found = said(model="someone/anime", revision="v2")
    assert found == "someone/anime: not in the local hub cache; get it with `hf download someone/anime --revision v2`"


def test_models_of_the_hub_cache_are_found(hub, model, teacher):
    hub(SD15, model("sd15"))
    hub("someone/anime", model("sd15"), "v2")
    for found in (family.sd15(), family.sd15(model="someone/anime", revision="v2")):
        assert found.details["config"] == teacher("sd15").details["config"]
    assert family.sd15().details["model"] == SD15
    assert "someone/anime: not in the local hub cache" in said(model="someone/anime")          # has no branch main


def test_a_part_that_was_not_downloaded_is_named_with_the_command(hub, model, tmp_path):
    shutil.copytree(model("sd15"), tmp_path / "part")
    (tmp_path / "part" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    hub(SD15, tmp_path / "part")
    found = said()
    assert "unet: has no weights; get it with `hf download stable-diffusion-v1-5/stable-diffusion-v1-5" in found


def test_paths_that_lead_nowhere(tmp_path, model):
    assert said(model=str(tmp_path / "no")).startswith(f"{tmp_path / 'no'}: no such file or folder")
    assert "no such file or folder" in said(model="model.safetensors")
    assert "has no model_index.json; choose a whole diffusers folder" in said(model=str(tmp_path))
    assert "revision: belongs to names of the hub" in said(model=model("sd15"), revision="main")
    (tmp_path / "model_index.json").write_text("{")
    assert "not JSON" in said(model=str(tmp_path))
    with pytest.raises(UserError, match="model: diffusers needs the name of one"):
        family.diffusers()


OTHERS = [("sd15", "sdxl", "sdxl"), ("sdxl", "sd15", "sd15"), ("sd15", "sd3", "diffusers")]


@pytest.mark.parametrize("name, other, use", OTHERS)
def test_a_model_of_another_family_is_named(name, other, use, model):
    with pytest.raises(UserError, match=f"is not a model of {name}; set teacher.use: {use}"):
        getattr(family, name)(model=model(other))


def test_networks_of_other_kinds_are_refused(model, tmp_path):
    def changed(part, **keys):
        shutil.rmtree(tmp_path / "it", ignore_errors=True)
        shutil.copytree(model("sd15"), tmp_path / "it")
        file = tmp_path / "it" / part / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | keys))
        return said(model=str(tmp_path / "it"))

    assert "not one of text to image alone (in_channels: 9)" in changed("unet", in_channels=9)
    assert "class_embed_type: timestep" in changed("unet", class_embed_type="timestep")
    assert "a UNet3DConditionModel cannot teach yet; known are" in changed("unet", _class_name="UNet3DConditionModel")


def test_weights_that_do_not_fit_their_configuration(model, tmp_path):
    shutil.copytree(model("sd15"), tmp_path / "it")
    other = tmp_path / "it" / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(tmp_path / "it" / "vae" / "diffusion_pytorch_model.safetensors", other)
    assert "unet: cannot be loaded: " in said(model=str(tmp_path / "it"))
    other.write_bytes(b"cut")
    assert "unet: cannot be loaded: " in said(model=str(tmp_path / "it"))


def test_variants_are_read_where_they_are_asked_or_alone(model, teacher, tmp_path):
    for folder in ("both", "half"):
        shutil.copytree(model("sd15"), tmp_path / folder)
        for part in ("unet", "vae", "text_encoder"):
            for file in (tmp_path / folder / part).glob("*.safetensors"):
                half = file.with_suffix(".fp16.safetensors")
                shutil.copy(file, half)
                if folder == "half":
                    file.unlink()
    unet = next((tmp_path / "both" / "unet").glob("*.fp16.safetensors"))
    from safetensors.torch import load_file, save_file

    save_file({k: torch.zeros_like(v) for k, v in load_file(unet).items()}, unet)
    weights = {name: next(family.sd15(**options).denoiser.parameters()) for name, options in {
        "plain": {"model": str(tmp_path / "both")},
        "asked": {"model": str(tmp_path / "both"), "variant": "fp16"},
        "alone": {"model": str(tmp_path / "half")},
        "lacking": {"model": model("sd15"), "variant": "fp16"},
    }.items()}  # fmt: skip
    wanted = next(teacher("sd15").denoiser.parameters())
    assert weights["plain"].equal(wanted) and weights["alone"].equal(wanted) and weights["lacking"].equal(wanted)
    assert not weights["asked"].any()


def test_half_precision_files_become_float32(model, tmp_path):
    from diffusers import StableDiffusionPipeline

    tiny.quiet()
    loaded = StableDiffusionPipeline.from_pretrained(model("sd15")).to(torch.float16)
    loaded.save_pretrained(tmp_path / "half", variant="fp16")
    found = family.sd15(model=str(tmp_path / "half"))
    assert {p.dtype for p in found.denoiser.parameters()} == {torch.float32}


@pytest.mark.parametrize("size", [15, (16, 17), 0, (16, -2)])
def test_sizes_that_latents_cannot_have(size, teacher):
    with pytest.raises(UserError, match="resolution: .* pixels; sides must be multiples of 2"):
        teacher("sd15", resolution=size)
