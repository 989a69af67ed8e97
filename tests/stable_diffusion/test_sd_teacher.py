"""The teachers sd15, sdxl and diffusers: contract, students, heads, guided networks, what an artefact records."""

import json

import pytest
import torch
from dmd2_plugins.stable_diffusion import teacher as family
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper

from dmd2cli import registry
from dmd2cli.core.denoiser import bind, guided
from dmd2cli.core.random import Numbered
from dmd2cli.engine import build
from dmd2cli.errors import UserError
from dmd2cli.recipe import Recipe
from dmd2cli.recipe_build import build as option_checked
from dmd2cli.recipe_parts import Use
from dmd2cli.samplers.few_step import FewStep
from dmd2cli.source import Source
from dmd2cli.student import contract, load_student, save_student
from dmd2cli.testing import check_teacher

ALL = ["sd15", "sd15-v", "sdxl", "sdxl-v", "sd3", "pixart", "pixart-sigma", "flux"]
PROMPTS = ["a handwritten three", "a llama"]
CPU = torch.device("cpu")
X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def use(name):
    return name.partition("-")[0] if name.startswith("sd15") or name.startswith("sdxl") else "diffusers"


def x_hat(denoiser, cond, t=(1.0, 0.3)):
    with torch.no_grad():
        return denoiser(X, torch.tensor(t), cond)


@pytest.mark.parametrize("name", ALL)
def test_teachers_keep_the_contract(name, teacher):
    """Ends with a whole DMD2 step with a GAN."""
    check_teacher(teacher(name))


@pytest.mark.parametrize("name", ["sd15", "sdxl-v", "sd3", "pixart", "flux"])
def test_a_student_is_loaded_without_the_weights_of_the_teacher(name, teacher, tmp_path):
    source = teacher(name)
    torch.manual_seed(1)
    for p in source.denoiser.parameters():
        p.data += 0.01 * torch.randn_like(p)
    named = {"teacher": {"use": use(name), "model": source.details["model"]}}
    named |= {"teacher_sampler": {"use": "heun"}, "metrics": []}
    sampler = FewStep((1.0, 0.5))
    save_student(tmp_path, source.denoiser, contract(source, named, sampler, 1.0, {"steps": 1}))
    with registry.override("teachers", use(name), getattr(family, use(name))):
        found = load_student(tmp_path)
    assert found.source.teacher.details == source.details
    assert found(prompts=PROMPTS, seed=3).equal(Source(source, source.denoiser, sampler).images(PROMPTS, 3))
    backbone = found.source.network.backbone
    net = backbone.unet if name.startswith("sd") and name != "sd3" else backbone.transformer
    assert type(net).__module__.startswith("diffusers.")


def test_details_are_json_and_say_where_from(teacher, model):
    found = teacher("sdxl").details
    assert json.loads(json.dumps(found)) == found
    assert found["family"] == "sdxl" and found["model"] == model("sdxl") and found["resolution"] == [16, 16]
    assert found["latents"] == {"channels": 4, "factor": 2, "scale": 0.13025, "shift": 0.0}
    assert found["prediction"] == "eps" and len(found["sha256"]) == 64
    assert "RAIL++-M" in found["licence"] and "OpenRAIL-M" in teacher("sd15").details["licence"]
    assert found["config"]["cross_attention_dim"] == 56 and "_name_or_path" not in found["config"]
    assert found["null"] is None and teacher("sd15").details["null"] == ""
    other = teacher("sdxl", negative="red", vae_dtype="bf16", resolution=[16, 24]).details
    assert other["null"] == "red" and other["resolution"] == [16, 24]
    assert other["options"] == {"negative": "red", "vae_dtype": "bf16", "resolution": [16, 24]}


def test_a_student_of_another_teacher_is_refused(teacher):
    with pytest.raises(UserError, match="student: was distilled from 'sd15', not from sdxl"):
        family.sdxl(skeleton=teacher("sd15").details)


def test_a_student_whose_base_is_gone_says_which(teacher):
    details = {**teacher("sd15").details, "model": "/nowhere/base"}
    found = family.sd15(skeleton=details)
    with pytest.raises(UserError, match="/nowhere/base: no such file or folder"):
        found.encode(["a"])
    with pytest.raises(UserError, match="/nowhere/base: no such file or folder"):
        found.decode(X)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_network_that_reads_the_scale_starts_equal(name, teacher):
    source = teacher(name)
    cond, _ = source.encode(PROMPTS)
    made = source.guided_network()
    scale = {"guidance": torch.tensor([1.0, 8.0])}
    torch.testing.assert_close(x_hat(made, {**cond, **scale}), x_hat(source.denoiser, cond), rtol=1e-6, atol=1e-6)
    made.backbone.unet.time_embedding.cond_proj.weight.data.normal_()
    assert not torch.allclose(x_hat(made, {**cond, **scale}), x_hat(source.denoiser, cond), atol=1e-3)
    assert made.backbone.unet.config.time_cond_proj_dim == 256


def test_transformers_offer_no_network_that_reads_the_scale(teacher):
    assert teacher("sd3").guided_network is None


def recipe(name, run=None, **parts):
    terms = {"distribution_matching": {"guidance": 2.0}, "gan_generator": {}, "denoising": {}, "gan_critic": {}}
    basics = {"student": {"lr": 1e-3}, "critic": {"lr": 1e-3}, "sampler": {"use": "euler"}, "losses": terms}
    more = {"teacher": {"use": "under-test"}, "data": {"real": {"use": "none"}}}
    return Recipe.model_validate({**basics, **more, **parts, "run": {"steps": 9, "batch": 2, **(run or {})}})


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "pixart", "flux"])
def test_checkpointing_and_bf16_storage_go_with_every_family(name, teacher):
    source = teacher(name)
    run = {"checkpointing": True, "precision": "bf16", "teacher_weights": "bf16"}
    asked = recipe(name, run, sampler={"use": "heun"})
    with registry.override("teachers", "under-test", lambda: source):
        d = build.distillation(asked, CPU)
    assert any(isinstance(m, CheckpointWrapper) for m in d.generator.module.modules())
    assert {p.dtype for p in source.denoiser.parameters()} == {torch.bfloat16}
    cond, null = source.encode(PROMPTS)
    from dmd2cli.data.base import Batch

    log = d.step([Batch(slice(0, 2), 2, cond, null, X, cond)], 0)
    assert all(value.isfinite() for value in log.values())


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "pixart", "flux"])
def test_adapters_go_into_the_layers_of_the_release(name, teacher):
    source = teacher(name)
    layers = [n for n, m in source.denoiser.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    taken = [n for n in layers if n.endswith(tuple(f".{t}" for t in source.lora_targets))]
    if name in ("sd15", "sdxl"):
        assert len(source.lora_targets) == 14
        assert {t for t in source.lora_targets if not any(n.endswith(f".{t}") for n in taken)} == set()
        rest = {n.split("unet.")[1] for n in layers} - {n.split("unet.")[1] for n in taken}
        assert {n.split(".")[0] for n in rest} <= {"conv_in", "conv_out", "time_embedding", "add_embedding"}
    assert len(taken) > 0.4 * len(layers)


def test_a_plan_needs_no_weights(model):
    from dmd2cli.engine.plan.plan import Question, plan

    asked = recipe("sdxl", {"device": "cpu"}, sampler={"use": "heun"}, teacher={"use": "sdxl", "model": model("sdxl")})
    with registry.override("teachers", "sdxl", family.sdxl):
        found = plan(asked, Question())
    networks = {network["name"]: network["parameters"] for network in found["networks"]}
    assert networks["teacher"] == networks["generator"] < networks["critic"] and found["left_out"] == {}


def test_helpers_go_where_the_teacher_goes(teacher):
    source = teacher("sd15", tiny=None)
    with registry.override("teachers", "under-test", lambda: source):
        build.teacher(recipe("sd15", sampler={"use": "heun"}), torch.device("meta"))
    assert {helper.place.device.type for helper in source.helpers} == {"meta"}


def test_options_are_checked_as_those_of_every_plugin(model):
    with registry.override("teachers", "sd15", family.sd15):
        found = option_checked("teachers", Use.model_validate({"use": "sd15", "model": model("sd15")}), "teacher")
        assert found.shape == (4, 8, 8)
        for bad, said in (
            ({"modell": "x"}, "did you mean 'model'"),
            ({"lora": [{"pth": "x"}]}, "lora"),
            ({"text_dtype": "fp16"}, "text_dtype"),
        ):
            with pytest.raises(UserError, match=said):
                option_checked("teachers", Use.model_validate({"use": "sd15", **bad}), "teacher")


def test_prompts_go_through_training_and_sampling(teacher):
    """Image i is a function of (seed, i) and its prompt; guidance changes it."""
    source = teacher("sdxl")
    draw = Source(source, source.denoiser, FewStep((1.0, 0.5)))
    two = draw.images(PROMPTS, 1)
    alone = draw.images(PROMPTS[1:], 1, first=1)[0]
    assert two.shape == (2, 3, 16, 16) and (alone.int() - two[1].int()).abs().max() <= 1
    strong = Source(source, source.denoiser, FewStep((1.0, 0.5)), guidance=5.0)
    assert not strong.images(PROMPTS, 1).equal(two)


def test_rows_of_a_guided_batch_are_those_of_two_calls(teacher):
    source = teacher("sdxl")
    cond, null = source.encode(PROMPTS)
    with torch.no_grad():
        t, both = torch.tensor([0.7, 0.7]), guided(source.denoiser, 4.0, cond, null)
        found = both(X, t)
        a, b = (bind(source.denoiser, c)(X, t) for c in (null, cond))
    torch.testing.assert_close(found, a + 4 * (b - a), rtol=1e-4, atol=1e-4)


def test_features_and_heads_need_square_images_and_nothing_else_does(teacher):
    source = teacher("sd15", resolution=(8, 32))
    with pytest.raises(UserError, match="resolution: a GAN head needs square images; these have features 2 x 8"):
        source.head()
    assert Source(source, source.denoiser, FewStep((1.0,))).images(["a"], 0).shape == (1, 3, 8, 32)
    assert Numbered(0, [0]).normal("noise", torch.empty(1, *source.shape)).shape == (1, 4, 4, 16)


# -- the published networks, without weights -------------------------------------------------------------------


@pytest.mark.parametrize("name, unet, head, shape", [
    ("sd15", 859_520_964, 52_437_761, (4, 64, 64)), ("sdxl", 2_567_463_684, 104_874_241, (4, 128, 128)),
])  # fmt: skip
def test_the_published_networks_are_built_without_weights(name, unet, head, shape, monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with torch.device("meta"):
        found = getattr(family, name)(skeleton={})
        made, judge = found.denoiser, found.head()
    assert sum(p.numel() for p in made.parameters()) == unet and sum(p.numel() for p in judge.parameters()) == head
    assert all(p.is_meta for p in made.parameters()) and found.shape == shape
    assert "sha256" not in found.details and found.details["resolution"] == [8 * shape[1]] * 2
    cond, null = found.encode([None] * 3)
    wanted = {"text": (3, 77, 768)}
    wanted = {"text": (3, 77, 2048), "pooled": (3, 1280), "time_ids": (3, 6)} if name == "sdxl" else wanted
    assert {k: tuple(v.shape) for k, v in cond.items()} == {k: tuple(v.shape) for k, v in null.items()} == wanted
    helpers = [sum(p.numel() for p in helper.parameters()) for helper in found.helpers]
    assert helpers[: len(helpers) - 1] == ([123_060_480] if name == "sd15" else [123_060_480, 694_659_840])


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_the_published_networks_have_the_published_keys(name):
    with torch.device("meta"):
        keys = getattr(family, name)(skeleton={}).denoiser.state_dict()
    block = {"sd15": "down_blocks.0", "sdxl": "down_blocks.1"}[name]
    for key, shape in {
        "conv_in.weight": (320, 4, 3, 3),
        "time_embedding.linear_1.weight": (1280, 320),
        f"{block}.attentions.0.transformer_blocks.0.attn2.to_k.weight": {"sd15": (320, 768), "sdxl": (640, 2048)}[name],
        "mid_block.attentions.0.proj_in.weight": {"sd15": (1280, 1280, 1, 1), "sdxl": (1280, 1280)}[name],
        "up_blocks.0.upsamplers.0.conv.weight": (1280, 1280, 3, 3),
        "conv_out.bias": (4,),
    }.items():
        assert tuple(keys[f"backbone.unet.{key}"].shape) == shape
    assert len(keys) == {"sd15": 686, "sdxl": 1680}[name]
    assert ("backbone.unet.add_embedding.linear_1.weight" in keys) == (name == "sdxl")


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3"])
def test_features_of_the_head_are_those_of_the_network(name, teacher):
    source = teacher(name)
    cond, _ = source.encode(PROMPTS)
    features = source.denoiser.features(X, torch.tensor([1.0, 0.3]), cond)
    assert source.head()(features).shape == (2, 1)


def test_a_skeleton_of_a_folder_has_its_sizes(teacher, model):
    with torch.device("meta"):
        found = family.sdxl(model=model("sdxl"), skeleton={})
    wanted = teacher("sdxl")
    shapes = lambda t: {k: v.shape for k, v in t.denoiser.state_dict().items()}  # noqa: E731
    assert shapes(found) == shapes(wanted) and found.shape == wanted.shape
    ours, theirs = found.encode(["a"])[0], wanted.encode(["a"])[0]
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
