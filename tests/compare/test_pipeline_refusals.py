"""What a pipeline cannot be: one line, what and what to do, and no code or pickle of a folder is ever run."""

import shutil

import pytest
import torch

pytest.importorskip("diffusers")

import rivals
from safetensors.torch import load_file

from dmd2cli.errors import UserError
from dmd2cli.pipelines.loading import load
from dmd2cli.pipelines.spec import Spec, parse


@pytest.fixture
def copy(pipe, tmp_path):
    """A pipeline's folder that a test may change."""
    return shutil.copytree(pipe("sd15"), tmp_path / "copy ü")


def said(spec):
    with pytest.raises(UserError) as error:
        load(spec if isinstance(spec, Spec) else Spec(str(spec)))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_not_there_is_said(tmp_path):
    assert said(tmp_path / "no").endswith("no such file or folder; check the path, or give a name of the hub")
    assert "has no model_index.json" in said(tmp_path)
    (tmp_path / "x.json").touch()
    assert "is a file; name the folder of a pipeline" in said(tmp_path / "x.json")


def test_a_name_of_the_hub_that_is_not_in_the_cache_is_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert "stabilityai/sdxl-turbo: not in the local hub cache; get it with `hf download stabilityai/sdxl-turbo" in (
        said("stabilityai/sdxl-turbo")
    )


def test_a_name_of_the_hub_is_found_in_the_cache(pipe, tmp_path, monkeypatch):
    from published_students import put

    put(tmp_path, "someone/tiny", pipe("sd15"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert load(Spec("someone/tiny")).reads.prompts


def test_custom_code_is_refused_and_not_run(copy, tmp_path):
    (copy / "pipeline.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    rivals.changed(copy, _class_name=["pipeline", "Mine"])
    assert "names a custom pipeline; its code is not run" in said(copy)
    rivals.changed(copy, _class_name="StableDiffusionPipeline", unet=["my_unet", "Mine"])
    (copy / "unet" / "my_unet.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "its unet is code of its own (my_unet)" in said(copy)
    assert not (tmp_path / "ran").exists()


def test_a_class_that_diffusers_does_not_have_is_named(copy):
    rivals.changed(copy, _class_name="SomethingNewPipeline")
    assert "is a SomethingNewPipeline, which this diffusers does not have" in said(copy)
    (copy / "model_index.json").write_text("[]")
    assert "names a custom pipeline" in said(copy)
    (copy / "model_index.json").write_text("{")
    assert "cannot be read" in said(copy)


def test_pipelines_that_draw_from_pictures_are_refused(copy):
    rivals.changed(copy, _class_name="StableDiffusionImg2ImgPipeline")
    assert "a StableDiffusionImg2ImgPipeline draws from pictures" in said(copy)


def test_weights_in_pickles_alone_are_refused(copy):
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    assert "has its weights in a pickle alone (diffusion_pytorch_model.bin), never opened" in said(copy)


def test_weights_of_a_variant_are_loaded_where_there_are_no_others(copy):
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".fp16.safetensors"))
    assert load(Spec(str(copy), dtype="bf16")).network.dtype == torch.bfloat16


def test_damaged_weights_are_one_line(copy):
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert "cannot be loaded" in said(copy)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sd15", {"scheduler": "eulre"}, "no such scheduler; did you mean 'euler'?"),
        ("sd15", {"scheduler": "euler:spacing=trailing"}, "euler has no option 'spacing'"),
        ("sd15", {"scheduler": "euler:steps_offset=["}, "the value is no number, word or list"),
        ("sd15", {"scheduler": "ddim:beta_schedule=cubic"}, "cubic is not implemented"),
        ("flux", {"scheduler": "ddim"}, "this pipeline is of flow matching; choose from euler, heun, lcm"),
        ("dit", {"scheduler": "euler"}, "a DiTPipeline cannot drive it; choose ddim, ddpm or dpm++"),
        ("ddpm", {"guidance": 2.0}, "DDPMPipeline of"),
        ("dit", {"negative": "blurry"}, "has no such option; leave --negative out"),
        ("ddpm", {"size": (16, 16)}, "has no such option; leave --size out"),
        ("sd15", {"dtype": "int8"}, "--dtype int8: is not one of"),
        ("sd15", {"lora": "./x"}, "./x: no such file or folder"),
    ],
)
def test_what_it_cannot_do_is_said(pipe, name, options, words):
    assert words in said(Spec(pipe(name), **options))


def test_a_size_or_count_of_steps_that_it_cannot_draw_is_one_line(pipe):
    for options in ({"size": (15, 16)}, {"scheduler": "lcm", "steps": 999}):
        with pytest.raises(UserError, match="cannot draw so"):
            list(load(Spec(pipe("sd15"), **options)).draw(["a cat"], 0))


def test_loras_that_are_none_are_refused(pipe, tmp_path, capsys):
    lora = rivals.lora(tmp_path / "lora", pipe("sdxl"))
    assert "is no LoRA that fits this StableDiffusionPipeline" in said(Spec(pipe("sd15"), lora=str(lora)))
    assert "is no .safetensors file" in said(Spec(pipe("sd15"), lora=__file__))
    (tmp_path / "none").mkdir()
    assert "has no .safetensors file" in said(Spec(pipe("sd15"), lora=str(tmp_path / "none")))
    weights = f"{pipe('sd15')}/unet/diffusion_pytorch_model.safetensors"
    assert "is no LoRA that fits" in said(Spec(pipe("sd15"), lora=weights))
    capsys.readouterr()
    said(Spec(pipe("sd15"), lora=str(lora)))
    assert capsys.readouterr().err == ""
    assert "diffusers has no LoRAs for DiTPipeline" in said(Spec(pipe("dit"), lora=str(lora)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x,step=4", "x,step=4: has no option 'step'; did you mean 'steps'?"),
        ("x,steps=four", "steps=four: expected a whole number"),
        ("x,guidance=high", "guidance=high: expected a number"),
        ("x,steps=4,steps=5", "steps is given twice"),
        ("x,steps=0", "--steps 0: at least 1 is needed"),
        ("x,size=big", "size=big: expected pixels"),
        ("x,size=0", "--size 0 x 0: sides are at least 1 pixel"),
        ("x,guidance=nan", "--guidance nan: expected a finite number"),
        ("x,lora_weight=1", "--lora-weight: belongs to --lora"),
        (",steps=4", "names nothing"),
        ("", "'': names nothing"),
    ],
)
def test_a_text_that_cannot_be_read_is_one_line(text, words):
    with pytest.raises(UserError) as error:
        parse(text)
    assert words in str(error.value)


def test_commas_belong_to_a_path_that_exists(tmp_path):
    folder = tmp_path / "a,steps=4"
    folder.mkdir()
    assert parse(str(folder)) == Spec(str(folder))
    assert parse("a, b/c,steps=4") == Spec("a, b/c", steps=4)
