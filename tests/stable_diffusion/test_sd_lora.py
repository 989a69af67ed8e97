"""LoRAs are fused as diffusers fuses them, whatever their layout, and a wrong base is named with the first key."""

import pytest
import tiny_pipelines as tiny
import torch
from dmd2_plugins.stable_diffusion import teacher as family
from safetensors.torch import load_file, save_file

from dmd2cli.errors import UserError

peft = pytest.importorskip("peft")
X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
PROMPTS = ["a handwritten three", "llama"]
TARGETS = ["to_q", "to_v", "conv1", "proj_in", "ff.net.2"]


@pytest.fixture(scope="module")
def lora(pipe, tmp_path_factory):
    """Family, whether its text encoders are changed as well -> a LoRA in the layout of diffusers, rank 4, alpha 2."""

    def make(name, text=False):
        folder, loaded = tmp_path_factory.mktemp("lora"), pipe(name)
        torch.manual_seed(3)
        layers = {"unet": adapted(loaded.unet, TARGETS)}
        for part in ("text_encoder", "text_encoder_2") if text else ():
            if hasattr(loaded, part):
                layers[part] = adapted(getattr(loaded, part), ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"])
        named = {f"{part}_lora_layers": tensors for part, (tensors, _) in layers.items()}
        metadata = {f"{part}_lora_adapter_metadata": config for part, (_, config) in layers.items()}
        type(loaded).save_lora_weights(folder, **named, **metadata)
        return folder / "pytorch_lora_weights.safetensors"

    return make


def adapted(module, targets):
    """Random factors for some layers of a module, and their configuration."""
    config = peft.LoraConfig(r=4, lora_alpha=2, target_modules=targets, init_lora_weights=False)
    module.add_adapter(config)
    tensors = {k: v.clone() for k, v in peft.get_peft_model_state_dict(module, adapter_name="default").items()}
    return tensors, config.to_dict()


def kohya(path, out):
    """The same LoRA in kohya's layout."""
    parts = {"unet.": "lora_unet_", "text_encoder_2.": "lora_te2_", "text_encoder.": "lora_te_"}
    two = any(key.startswith("text_encoder_2.") for key in load_file(path))
    found = {}
    for key, value in load_file(path).items():
        part = next(part for part in parts if key.startswith(part))
        prefix = "lora_te1_" if two and part == "text_encoder." else parts[part]
        name = key.removeprefix(part)
        name = f"text_model.{name.removeprefix('text_model.')}" if part.startswith("text") else name
        for ours, theirs in ((".lora_A.weight", ".lora_down.weight"), (".lora_B.weight", ".lora_up.weight")):
            if name.endswith(ours):
                base = prefix + name.removesuffix(ours).replace(".", "_")
                found[base + theirs], found[base + ".alpha"] = value, torch.tensor(2.0)
    save_file(found, out)
    return out


def drawn(source):
    cond, _ = source.encode(PROMPTS)
    with torch.no_grad():
        return [source.denoiser(X, torch.tensor([1.0, 0.3]), cond), *cond.values()]


def fused(pipe, source, scale, folder):
    """The same from a pipeline that loads the LoRA itself."""
    pipe.load_lora_weights(str(folder.parent), weight_name=folder.name)
    pipe.fuse_lora(lora_scale=scale, components=pipe._lora_loadable_modules)
    pipe.unload_lora_weights()
    folder.with_name("fused").mkdir(exist_ok=True)
    pipe.save_pretrained(folder.with_name("fused"))
    return drawn(source(model=str(folder.with_name("fused"))))


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
@pytest.mark.parametrize("text", [False, True], ids=["unet", "unet and text"])
@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_a_fused_lora_is_that_of_the_pipeline(name, text, layout, lora, model, pipe, teacher, tmp_path):
    path = lora(name, text)
    wanted = fused(pipe(name), getattr(family, name), 0.7, path)
    given = path if layout == "diffusers" else kohya(path, tmp_path / "kohya.safetensors")
    found = drawn(teacher(name, lora=[{"path": str(given), "scale": 0.7}]))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    plain = drawn(teacher(name))
    assert not torch.allclose(found[0], plain[0], atol=1e-2)
    assert torch.allclose(found[1], plain[1], atol=1e-4) != text


def test_fused_weights_have_the_names_of_the_base(lora, teacher):
    found = teacher("sd15", lora=[{"path": str(lora("sd15"))}, {"path": str(lora("sd15").parent), "scale": 0.5}])
    assert found.denoiser.state_dict().keys() == teacher("sd15").denoiser.state_dict().keys()
    assert [one["scale"] for one in found.details["lora"]] == [1.0, 0.5]
    assert not any(p.requires_grad for p in found.denoiser.parameters())


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
@pytest.mark.parametrize("name, other", [("sdxl", "sd15"), ("sd15", "sdxl")])
def test_a_lora_of_another_base_is_named_with_its_first_misfit(name, other, layout, lora, teacher, tmp_path):
    path = lora(name) if layout == "diffusers" else kohya(lora(name), tmp_path / "kohya.safetensors")
    with pytest.raises(UserError, match=r"safetensors: unet\..* was it trained on another base model\?") as err:
        teacher(other, lora=[{"path": str(path)}])
    assert "\n" not in str(err.value)


def test_files_that_are_no_lora_are_refused_in_a_line(teacher, model, tmp_path):
    (tmp_path / "text.safetensors").write_text("no")
    save_file({"conv_in.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    for path, said in (
        (tmp_path / "none.safetensors", "none.safetensors: no such file"),
        (tmp_path / "text.safetensors", "not a whole safetensors file"),
        (tmp_path / "other.safetensors", r"other.safetensors: is no LoRA \(conv_in.weight in it\)"),
    ):
        with pytest.raises(UserError, match=said) as err:
            teacher("sd15", lora=[{"path": str(path)}])
        assert "\n" not in str(err.value)


def test_families_without_loras_say_so(teacher, lora):
    with pytest.raises(UserError, match="diffusers has no LoRAs for PixArtAlphaPipeline; fuse it yourself"):
        teacher("pixart", lora=[{"path": str(lora("sd15"))}])


def test_a_student_needs_the_lora_file_again_only_for_its_text_encoders(lora, tmp_path):
    """It has the fused network itself."""
    path = lora("sd15")
    source = family.sd15(model=str(tiny.sd15(tmp_path / "base")), lora=[{"path": str(path)}])
    again = family.sd15(skeleton=source.details)
    again.denoiser.load_state_dict(source.denoiser.state_dict())
    wanted = drawn(source)
    path.unlink()
    for ours, theirs in zip(drawn(again), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


