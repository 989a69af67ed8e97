"""Plans of teachers with text encoders and VAE: which of them a recipe loads, and adapters on a base in bfloat16."""

from pathlib import Path

import pytest
import torch

from dmd2cli.engine.build import distillation
from dmd2cli.engine.plan import helpers
from dmd2cli.engine.plan.memory import memory
from dmd2cli.engine.plan.plan import Question, plan
from dmd2cli.recipe import load

CACHED = "data={prompts: {use: latents, path: nowhere}, real: {use: latents, path: nowhere}}"
PROMPTS = "data={prompts: {use: prompts, texts: [a llama]}, real: {use: latents, path: nowhere}}"
LORA = ("student.lora={rank: 4}", "critic.lora={rank: 4}")


@pytest.fixture
def recipe(model):
    """A recipe of a tiny SDXL."""

    def build(*overrides, name="sdxl"):
        plain = ("student.ema_halflife_images=null", "losses.joint_critic=null", "losses.denoising.weight=1.0")
        gan = ("losses.gan_critic.weight=0.01", "run.batch=8", "run.threads=1", "data.real=null", "sampler=ddim")
        return load("digits", [*plain, *gan, f"teacher={{use: {name}, model: {model(name)}}}", CACHED, *overrides])

    return build


def rows(found):
    """Bytes that last, by the name of the network."""
    return {network.name: network.lasting for network in found.networks}


def test_encoders_count_where_conditions_are_encoded_in_training(recipe, pipe):
    with_text, cached = (rows(memory(recipe(data), "cpu")) for data in (PROMPTS, CACHED))
    assert with_text.keys() - cached.keys() == {"CLIPTextModel", "CLIPTextModelWithProjection"}
    tiny = pipe("sdxl")
    encoders = {"CLIPTextModel": tiny.text_encoder, "CLIPTextModelWithProjection": tiny.text_encoder_2}
    for name, part in encoders.items():
        weights = sum(p.nbytes for p in part.parameters())
        assert weights <= with_text[name] <= weights + sum(b.nbytes for b in part.buffers())
    assert cached["AutoencoderKL"] == sum(p.nbytes for p in tiny.vae.parameters())


def test_encoders_are_counted_in_their_own_type(recipe, model):
    half = f"teacher={{use: sdxl, model: {model('sdxl')}, text_dtype: bf16, vae_dtype: bf16}}"
    full, less = (rows(memory(recipe(PROMPTS, *more), "cpu")) for more in ((), (half,)))
    assert less["AutoencoderKL"] == full["AutoencoderKL"] // 2
    assert less["CLIPTextModelWithProjection"] < 0.6 * full["CLIPTextModelWithProjection"]


def test_a_vae_counts_for_previews_and_for_losses_on_images(recipe, model, tmp_path):
    import tiny_pipelines

    none = rows(memory(recipe("run.preview_every=null"), "cpu"))
    assert "AutoencoderKL" not in none
    small = f"teacher={{use: sdxl, model: {model('sdxl')}, tiny: {tiny_pipelines.tiny_vae(tmp_path / 'tiny')}}}"
    pairs = ("data.pairs={use: pairs, path: nowhere}", "losses.regression={distance: lpips, resize: 32, decoder: tiny}")
    unused = rows(memory(recipe(small, "run.preview_every=null"), "cpu"))
    read = rows(memory(recipe(small, "run.preview_every=null", *pairs), "cpu"))
    assert "AutoencoderTiny" not in unused and {"AutoencoderTiny", "lpips"} <= read.keys()
    assert "AutoencoderKL" not in read
    assert {"CLIPTextModel"} <= read.keys()                # conditions of pairs are encoded as they come


def test_decoding_of_a_preview_is_a_phase_and_grows_with_the_micro_batch(recipe):
    found = memory(recipe(), "cpu")
    sizes = [{phase.name: phase for phase in found.phases(n)}["decoding of a preview"] for n in (1, 8)]
    assert 0 < sizes[0].activations < sizes[1].activations and sizes[1].peak == found.lasting + sizes[1].activations
    images = 8 * 3 * 16 * 16
    assert 4 * images < sizes[1].activations < 400 * images


def test_decoding_takes_what_it_takes(recipe, teacher):
    """On real tensors the same operations are alive at the worst moment."""
    from dmd2cli.engine.plan.tape import Tape

    real = teacher("sdxl")
    x, tape = torch.randn(4, *real.shape), Tape(1)
    real.decode(x)                                         # loads it
    with torch.no_grad(), tape:
        real.decode(x)
    measured = x.nbytes + max(a + b for a, b in zip(tape.fixed, tape.grown, strict=True))
    assert memory(recipe(), "cpu").decoding.peak(4) == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("name", ["prompts", "class-labels"])
def test_only_what_says_so_brings_its_conditions_encoded(name, tmp_path):
    assert not helpers.encoded(name, {})
    assert helpers.encoded("latents", {"path": str(tmp_path / "later")})
    (tmp_path / "data.mdb").write_bytes(b"")
    assert not helpers.encoded("latents", {"path": str(tmp_path)})


@pytest.mark.parametrize("shared", ["true", "false"])
def test_adapters_learn_in_float32_on_a_base_in_bfloat16(recipe, shared):
    half = ("run.precision=bf16", "run.teacher_weights=bf16", f"shared_base={shared}", *LORA)
    asked = recipe(PROMPTS, "data.real=null", "losses.gan_generator=null", "losses.gan_critic=null", *half)
    d = distillation(asked, torch.device("cpu"))
    for player in (d.generator, d.critic):
        assert {p.dtype for p in player.parameters} == {torch.float32}
    found = {network.name: network for network in memory(asked, "cpu").networks}
    assert found["generator"].weights == sum(p.nbytes for p in d.generator.parameters)
    base = d.nets.real.adapters.base if shared == "true" else d.nets.real
    frozen = [p for p in base.parameters() if not p.requires_grad]
    assert {p.dtype for p in frozen} == {torch.bfloat16}
    assert found["teacher"].parameters == sum(p.numel() for p in frozen)


@pytest.mark.parametrize("kind", ["auto", "cpu"])
def test_a_shared_base_under_checkpointing_is_planned(recipe, kind):
    more = ("shared_base=true", *LORA, "run.checkpointing=true", "run.precision=bf16", f"run.device={kind}")
    facts = plan(recipe(*more), Question())
    assert not facts["left_out"] and facts["undecoded"] is None
    assert facts["peak"] > sum(network["lasting"] for network in facts["networks"])


def test_nothing_is_said_on_the_way(recipe, capfd):
    plan(recipe(), Question())
    assert capfd.readouterr().err == "" and not Path("nowhere").exists()
