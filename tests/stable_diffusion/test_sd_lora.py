"""A LoRA is added to the weights by the formula of its paper, whatever its layout; a wrong base is named."""

import json
import math
import re

import pytest
import tiny_pipelines as tiny
import torch
from dmd2_plugins.stable_diffusion import teacher as family
from safetensors.torch import save_file

from dmd2cli.errors import UserError
from dmd2cli.lora_file import read_lora

peft = pytest.importorskip("peft")
X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
PROMPTS = ["a handwritten three", "llama"]
NETWORK = re.compile(r".*\.(to_q|to_v|to_out\.0|conv1|conv_shortcut|proj_in|time_emb_proj|ff\.net\.2)")
TEXT = re.compile(r".*\.(q_proj|v_proj|out_proj|fc1|fc2)")
RANKS, ALPHAS = (4, 2, 1), (2.0, 4.0, 0.5)
"""By turns: no two layers that follow each other have the same strength."""


def updates(pipe, text=False, dora=False, alphas=ALPHAS):
    """Random factors for layers of a pipeline: part -> layer -> (A, B, alpha, magnitude or None)."""
    source = torch.Generator().manual_seed(3)

    def factors(i, weight):
        rank = RANKS[i % len(RANKS)]
        down = 0.5 * torch.randn(rank, *weight.shape[1:], generator=source)
        up = 0.5 * torch.randn(weight.shape[0], rank, *(1 for _ in weight.shape[2:]), generator=source)
        magnitude = 0.5 + torch.rand(weight.shape[0], generator=source) if dora else None
        return down, up, alphas[i % len(alphas)] if alphas else rank, magnitude

    parts = {"unet": NETWORK} | ({"text_encoder": TEXT, "text_encoder_2": TEXT} if text else {})
    found = {}
    for part, pattern in parts.items():
        if (module := getattr(pipe, part, None)) is not None:
            layers = [(name, layer.weight) for name, layer in module.named_modules() if pattern.fullmatch(name)]
            found[part] = {name: factors(i, weight) for i, (name, weight) in enumerate(layers)}
            assert len(layers) > 5, part
    return found


def by_formula(weight, down, up, alpha, magnitude, scale):
    """W + s alpha / r B A in float64, entry by entry of its definition; DoRA's m (W + ...) / |W + ...|, by rows."""
    product = torch.einsum("or,ri->oi", up.double().flatten(1), down.double().flatten(1)).reshape(weight.shape)
    new = weight.double() + scale * alpha / len(down) * product
    if magnitude is None:
        return new
    return torch.stack([row * m / row.square().sum().sqrt() for row, m in zip(new, magnitude.double(), strict=True)])


def in_diffusers(parts, folder):
    """diffusers' own layout; the alphas are in peft's configuration of each part, in the metadata."""
    tensors, config = {}, {}
    for part, layers in parts.items():
        for name, (down, up, _, magnitude) in layers.items():
            tensors |= {f"{part}.{name}.lora_A.weight": down, f"{part}.{name}.lora_B.weight": up}
            if magnitude is not None:
                tensors[f"{part}.{name}.lora_magnitude_vector"] = magnitude
        patterns = {f"{kind}_pattern": {name: values[i] for name, values in layers.items()}
                    for kind, i in (("alpha", 2), ("rank", 0))}                                      # fmt: skip
        patterns["rank_pattern"] = {name: len(down) for name, down in patterns["rank_pattern"].items()}
        dora = any(magnitude is not None for *_, magnitude in layers.values())
        settings = peft.LoraConfig(r=4, lora_alpha=7, target_modules=list(layers), use_dora=dora, **patterns).to_dict()
        config |= {f"{part}.{key}": list(v) if isinstance(v, set) else v for key, v in settings.items()}
    metadata = {"lora_adapter_metadata": json.dumps(config)}
    return saved(tensors, folder / "pytorch_lora_weights.safetensors", metadata)


def in_old_diffusers(parts, folder):
    """The layout of diffusers before peft: attention processors, up and down; no alphas."""
    tensors = {}
    for part, layers in parts.items():
        for name, (down, up, _, _) in layers.items():
            for value, side in ((down, "down"), (up, "up")):
                tensors[f"{part}.{old_name(part, name)}.{side}.weight"] = value
    return saved(tensors, folder / "old.safetensors")


def old_name(part, name):
    if part != "unet":
        return f"{name}.lora_linear_layer"
    if match := re.fullmatch(r"(.*attn\d)\.(to_\w+)(\.0)?", name):
        return f"{match[1]}.processor.{match[2]}_lora"
    return f"{name}.lora"


def in_kohya(parts, folder, prefix=""):
    """kohya's layout: underscores for dots, an alpha for each layer, DoRA's scale as (out, 1, ...)."""
    names = {"unet": "lora_unet_", "text_encoder_2": "lora_te2_"}
    names["text_encoder"] = "lora_te1_" if "text_encoder_2" in parts else "lora_te_"
    tensors = {}
    for part, layers in parts.items():
        for name, (down, up, alpha, magnitude) in layers.items():
            text = "text_model." if part.startswith("text") and not name.startswith("text_") else ""
            base = names[part] + f"{text}{name}".replace(".", "_")
            tensors |= {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up}
            tensors[f"{base}.alpha"] = torch.tensor(float(alpha))
            if magnitude is not None:
                tensors[f"{base}.dora_scale"] = magnitude.reshape(-1, *(1 for _ in down.shape[1:]))
    return saved(tensors, folder / "kohya.safetensors")


def in_peft(parts, folder, start="base_model.model.", adapter="", rslora=False):
    """peft's own layout of the network alone, its configuration beside it."""
    tensors, patterns = {}, {}
    for name, (down, up, alpha, magnitude) in parts["unet"].items():
        key = f"{start}{name}"
        tensors |= {f"{key}.lora_A{adapter}.weight": down, f"{key}.lora_B{adapter}.weight": up}
        if magnitude is not None:
            shape = (1, -1, 1, 1) if down.ndim == 4 else (-1,)
            tensors[f"{key}.lora_magnitude_vector"] = magnitude.reshape(shape)
        patterns[name] = alpha / math.sqrt(len(down)) if rslora else alpha
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 9, "alpha_pattern": patterns, "use_rslora": rslora}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return saved(tensors, folder / "adapter_model.safetensors")


def saved(tensors, path, metadata=None):
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
    return path


LAYOUTS = {
    "diffusers": in_diffusers,
    "diffusers-old": in_old_diffusers,
    "kohya": in_kohya,
    "peft": in_peft,
    "peft-rslora": lambda parts, folder: in_peft(parts, folder, rslora=True),
    "peft-named": lambda parts, folder: in_peft(parts, folder, adapter=".default"),
    "bare": lambda parts, folder: in_peft(parts, folder, start=""),
    "bare-named": lambda parts, folder: in_peft(parts, folder, start="", adapter=".my-style"),
}


@pytest.fixture
def lora(pipe, tmp_path):
    """Family, whether its text encoders are changed as well -> a LoRA in the layout of diffusers."""
    return lambda name, text=False: in_diffusers(updates(pipe(name), text), tmp_path)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layer_gets_w_plus_alpha_over_r_times_b_a(layout, dora, name, pipe, model, tmp_path):
    base = pipe(name)
    one_part = layout.startswith(("peft", "bare"))
    if layout == "diffusers-old" and dora:
        pytest.skip("the old layout has no magnitudes")
    parts = updates(base, not one_part, dora, () if layout == "diffusers-old" else ALPHAS)
    lora = read_lora(LAYOUTS[layout](parts, tmp_path), type(base), base.unet.config)
    assert {part: set(layers) for part, layers in lora.parts.items()}.keys() == parts.keys()
    for part, layers in parts.items():
        module, plain = getattr(base, part), getattr(pipe(name), part).state_dict()
        lora.fuse(module, part, 0.7)
        for key, value in module.state_dict().items():
            wanted = plain[key]
            if (layer := key.removesuffix(".weight")) in layers:
                wanted = by_formula(plain[key], *layers[layer], 0.7).float()
                assert (wanted - plain[key]).abs().max() > 0.05, key
            torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")


def test_lycoris_scales_the_columns_of_a_dora_where_its_scale_has_their_number(pipe, tmp_path):
    base = pipe("sd15")
    name, (down, up, alpha, _) = next(item for item in updates(base)["unet"].items() if item[1][0].ndim == 4)
    columns = 0.5 + torch.rand(1, down.shape[1], 1, 1)
    tensors = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(alpha), "dora_scale": columns}
    start = f"lora_unet_{name.replace('.', '_')}"
    path = saved({f"{start}.{key}": value for key, value in tensors.items()}, tmp_path / "lycoris.safetensors")
    plain = base.unet.get_submodule(name).weight.detach().clone()
    read_lora(path, type(base), base.unet.config).fuse(base.unet, "unet")
    new = by_formula(plain, down, up, alpha, None, 1.0)
    wanted = columns.double() * new / new.square().sum((0, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(base.unet.get_submodule(name).weight.data.double(), wanted, rtol=1e-5, atol=1e-6)


def drawn(source):
    cond, _ = source.encode(PROMPTS)
    with torch.no_grad():
        return [source.denoiser(X, torch.tensor([1.0, 0.3]), cond), *cond.values()]


def fused_by_pipeline(pipe, source, scale, path):
    """The same from a pipeline that loads the LoRA itself; skips where the installed versions cannot."""
    try:
        pipe.load_lora_weights(str(path.parent), weight_name=path.name)
    except (ValueError, ImportError) as err:
        if re.search("version", str(err)) and re.search("peft", str(err), re.IGNORECASE):
            pytest.skip(f"these versions have no LoRAs of text encoders: {err}")
        raise
    pipe.fuse_lora(lora_scale=scale, components=[part for part in pipe._lora_loadable_modules if hasattr(pipe, part)])
    pipe.unload_lora_weights()
    path.with_name("fused").mkdir(exist_ok=True)
    pipe.save_pretrained(path.with_name("fused"))
    return drawn(source(model=str(path.with_name("fused"))))


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
@pytest.mark.parametrize("text", [False, True], ids=["unet", "unet and text"])
@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_a_fused_lora_is_that_of_the_pipeline(name, text, layout, pipe, teacher, tmp_path):
    """One alpha and one rank: diffusers and peft agree with the formula there."""
    factors = updates(pipe(name), text)
    parts = {part: {layer: (down[:1], up[:, :1], 0.5, None) for layer, (down, up, _, _) in layers.items()}
             for part, layers in factors.items()}                                                    # fmt: skip
    path = LAYOUTS[layout](parts, tmp_path)
    found, plain = drawn(teacher(name, lora=[{"path": str(path), "scale": 0.7}])), drawn(teacher(name))
    assert not torch.allclose(found[0], plain[0], atol=1e-2)
    assert torch.allclose(found[1], plain[1], atol=1e-4) != text
    for ours, theirs in zip(found, fused_by_pipeline(pipe(name), getattr(family, name), 0.7, path), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_fused_weights_have_the_names_of_the_base(lora, teacher):
    found = teacher("sd15", lora=[{"path": str(lora("sd15"))}, {"path": str(lora("sd15").parent), "scale": 0.5}])
    assert found.denoiser.state_dict().keys() == teacher("sd15").denoiser.state_dict().keys()
    assert [one["scale"] for one in found.details["lora"]] == [1.0, 0.5]
    assert not any(p.requires_grad for p in found.denoiser.parameters())


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
@pytest.mark.parametrize("name, other", [("sdxl", "sd15"), ("sd15", "sdxl")])
def test_a_lora_of_another_base_is_named_with_its_first_misfit(name, other, layout, pipe, teacher, tmp_path):
    path = LAYOUTS[layout](updates(pipe(name)), tmp_path)
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


