"""Pipelines of diffusers as subjects: the library's own noise, whatever the batch, calls counted by hooks."""

import pytest
import torch

pytest.importorskip("diffusers")

import rivals
import tiny_pipelines as tiny

from dmd2cli.core.random import Numbered
from dmd2cli.pipelines.loading import images, load
from dmd2cli.pipelines.spec import Spec, parse

SIZE = (2 * tiny.SIZE, 2 * tiny.SIZE)
SIZED = {"flux": SIZE, "sdxl": SIZE}                       # whose own size is not that of the tiny network


def loaded(pipe, name, **options):
    options = {"size": SIZED.get(name), "steps": 2, **options}
    return load(Spec(pipe(name), **options))


def raw(source, n):
    return [f"a photo of {k}" for k in ("cat", "llama", "nine")][:n] if source.reads.prompts else source.conditions(n)


def drawn(source, n, **options):
    return torch.cat(list(source.draw(raw(source, n), 3, **options)))


@pytest.mark.parametrize("name", ["sd15", "sdxl", "flux", "pixart", "lcm", "dit", "ddpm"])
def test_every_kind_draws_and_an_image_is_a_function_of_its_seed_and_number(pipe, name):
    source = loaded(pipe, name)
    whole = drawn(source, 3, batch=3)
    assert whole.dtype == torch.uint8 and whole.shape[:2] == (3, 3)
    assert tuple(whole.shape[2:]) == source.size
    for i in range(3):
        (one,) = source.draw(raw(source, 3)[i : i + 1], 3, first=i)
        assert (one[0].int() - whole[i].int()).abs().max() <= 1
    assert not torch.equal(whole[0], whole[1])


@pytest.mark.parametrize(
    "name", ["euler-a", "lcm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dpm++-sde", "tcd", "ddpm"))]
)
def test_noise_that_a_scheduler_adds_is_an_images_own(pipe, name):
    source = loaded(pipe, "sd15", scheduler=name, steps=4)
    together, torch_state = drawn(source, 3, batch=3), torch.get_rng_state()
    apart = drawn(source, 3, batch=1)
    assert (together.int() - apart.int()).abs().max() <= 1
    assert torch.equal(torch.get_rng_state(), torch_state)
    other = loaded(pipe, "sd15", scheduler="ddim", steps=4)
    assert not torch.equal(drawn(other, 3), together)


def test_the_first_latents_are_the_numbered_noise_in_the_schedulers_scale(pipe):
    source, seen = loaded(pipe, "sd15", scheduler="euler", guidance=1.0), []
    handle = source.network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    drawn(source, 2, batch=2)
    handle.remove()
    noise = Numbered(3, [0, 1]).normal("noise", torch.empty(2, 4, tiny.SIZE, tiny.SIZE))
    scheduler = source.pipe.scheduler
    sigma = scheduler.sigmas[0]
    expected = noise * scheduler.init_noise_sigma / (sigma**2 + 1) ** 0.5
    assert torch.allclose(seen[0], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["dit", "ddpm"])
def test_pipelines_that_take_no_latents_start_from_the_same_noise(pipe, name):
    source, seen = loaded(pipe, name), []
    handle = source.network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    drawn(source, 2, batch=2)
    handle.remove()
    noise = Numbered(3, [0, 1]).normal("noise", torch.empty(2, *seen[0].shape[1:]))
    assert torch.equal(seen[0][:2], noise)


def test_the_same_pipeline_draws_as_diffusers_does_with_that_noise(pipe):
    from diffusers import StableDiffusionPipeline

    plain = StableDiffusionPipeline.from_pretrained(pipe("sd15"))
    plain.set_progress_bar_config(disable=True)
    noise = Numbered([3, 3], [0, 1]).normal("noise", torch.empty(2, 4, tiny.SIZE, tiny.SIZE))
    source = loaded(pipe, "sd15", steps=3)
    expected = plain(raw(source, 2), latents=noise, num_inference_steps=3, output_type="np").images
    found = drawn(source, 2).permute(0, 2, 3, 1)
    assert (found.float() - 255 * torch.from_numpy(expected)).abs().max() <= 0.51


@pytest.mark.parametrize(
    ("name", "options", "nfe", "passes"),
    [
        ("sd15", {}, 3, 2.0),                              # PNDM calls once more than it has steps
        ("sd15", {"guidance": 1.0, "scheduler": "euler"}, 2, 1.0),
        ("sd15", {"scheduler": "heun", "steps": 3}, 5, 2.0),
        ("sdxl", {"guidance": 0.0, "steps": 1}, 1, 1.0),
        ("lcm", {"steps": 4}, 4, 1.0),                     # its guidance is a condition
        ("dit", {}, 2, 2.0),
        ("ddpm", {}, 2, 1.0),
    ],
)
def test_calls_are_counted_and_not_assumed(pipe, name, options, nfe, passes):
    source = loaded(pipe, name, **options)
    assert source.nfe is None
    drawn(source, 2)
    assert (source.nfe, source.cost["passes"]) == (nfe, passes)


def test_a_lora_changes_images_by_its_weight(pipe, tmp_path):
    lora = str(rivals.lora(tmp_path / "lora", pipe("sd15")))
    without, none, full = (
        drawn(loaded(pipe, "sd15", **more), 1) for more in ({}, {"lora": lora, "lora_weight": 0.0}, {"lora": lora})
    )
    assert (without.int() - none.int()).abs().max() <= 1
    assert not torch.equal(without, full)


def test_options_of_a_scheduler_reach_it(pipe):
    source = loaded(pipe, "sdxl", scheduler="euler:timestep_spacing=trailing", steps=4)
    drawn(source, 1)
    assert source.pipe.scheduler.timesteps.tolist() == [999, 749, 499, 249]


def test_rectified_flow_adds_velocities(pipe):
    source = loaded(pipe, "sd15", scheduler="rectified-flow", steps=4, guidance=1.0)
    drawn(source, 1)
    scheduler = source.pipe.scheduler
    assert scheduler.timesteps.tolist() == [1000, 750, 500, 250] and source.nfe == 4
    x, v = torch.randn(1, 4, 8, 8), torch.ones(1, 4, 8, 8)
    assert torch.equal(scheduler.step(v, 1000, x).prev_sample, x + 0.25)


def test_classes_are_those_of_the_network(pipe):
    assert loaded(pipe, "dit").conditions(1001)[-2:] == [999, 0]
    assert loaded(pipe, "ddpm").conditions(2) == [None, None]


def test_images_of_a_text_are_image_0_of_each_seed(pipe):
    text = f"{pipe('sd15')},scheduler=ddim,steps=2,guidance=1"
    assert parse(text) == Spec(pipe("sd15"), scheduler="ddim", steps=2, guidance=1.0)
    found = images(text, ["a cat", "a cat"], [5, 6])
    (other,) = load(parse(text)).draw(["a cat"], 6)
    assert found.shape == (2, 3, *SIZE) and (found[1].int() - other[0].int()).abs().max() <= 1


def test_identity_is_of_the_weights_and_not_of_the_folder(pipe, tmp_path):
    moved = tiny.sd15(tmp_path / "elsewhere")
    assert load(Spec(str(moved))).identity() == load(Spec(pipe("sd15"))).identity()
    assert load(Spec(str(tiny.sd15(tmp_path / "other", seed=1)))).identity() != load(Spec(str(moved))).identity()
