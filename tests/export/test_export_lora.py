"""LoRA files: loaded by diffusers onto the base they draw the student's images, or what was extracted of it."""

import json
import re

import pytest
import torch
from dmd2_plugins.export import lora as exporter
from dmd2_plugins.export.extract import extract, factors, product
from dmd2_plugins.export.lora import export
from safetensors.torch import load_file
from tiny_students import FOUR, ONE, numbered
from torch import nn

from dmd2cli.adapters import View, merged
from dmd2cli.errors import UserError
from dmd2cli.testing import check_exporter
from dmd2cli.weights import read_metadata

PROMPTS = ["a red cat", "seven llama wearing sunglasses"]
FILES = ["pytorch_lora_weights.safetensors", "out.safetensors"]


def largest(a, b):
    return int((a.int() - b.int()).abs().max())


# -- a student that is a LoRA --------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    ("name", "times", "options"),
    [("sd15", FOUR, {}), ("sdxl", ONE, {}), ("sdxl", (1.0, 0.6, 0.1), {}), ("sd15", FOUR, {"stochastic": False})],
    ids=["sd15-four", "sdxl-one", "sdxl-uneven", "sd15-ode"],
)
def test_the_card_s_call_draws_what_dmd2_sample_draws(
    distilled, model, tmp_path, monkeypatch, name, times, options, file
):
    student = distilled(name, times, 4, **options)
    said = export(student, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    code = re.match(r"# \S+\n\n```python\n(.*?)```", card, re.DOTALL).group(1)
    code = code.replace('"pipe"', f'"{model(name)}"').replace('"out"', f'"{tmp_path / "out"}"').replace(FILES[0], file)
    names = {}
    exec(code.replace('"cuda", torch.float16', '"cpu"').partition("image =")[0], names)
    numbered(monkeypatch, 3, 2)
    call = re.search(r"pipe\(prompt, (timesteps=.*)\)", code).group(1)
    more = eval(f"dict({call})") | {"latents": student.source.noise(3, range(2)), "output_type": "pt"}
    images = (names["pipe"](PROMPTS, **more).images * 255).to(torch.uint8)
    assert largest(images, student(prompts=PROMPTS, seed=3)) <= 1 and said["max_pixel_difference"] <= 1
    assert said["files"] == FILES and said["rank"] == 4


def test_the_files_say_how_they_are_used(distilled, tmp_path):
    export(distilled("sdxl", FOUR, 4), tmp_path / "out")
    for file in FILES:
        found = read_metadata(tmp_path / "out" / file)
        assert found["dmd2_timesteps"] == "999,749,499,249" and found["dmd2_sampler"] == "lcm"
        assert found["usage"].startswith("LCM sampler, CFG 1, 4 step(s) at exactly the timesteps 999, 749, 499, 249")
        assert len(found["dmd2_base_sha256"]) == 64 and "/" not in found["dmd2_base"]


def test_the_strength_is_in_the_factors_and_alpha_is_the_rank(distilled, tmp_path):
    student = distilled("sd15", FOUR, 4)
    export(student, tmp_path / "out")
    ours, theirs = (load_file(tmp_path / "out" / file) for file in FILES)
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    kept = {k.rpartition("unet.")[2]: v for k, v in student.source.network.weights().items()}
    assert ours[f"unet.{layer}.lora_B.weight"].allclose(0.5 * kept[f"{layer}.lora_B.weight"])
    flat = f"lora_unet_{layer.replace('.', '_')}"
    assert theirs[f"{flat}.lora_up.weight"].equal(ours[f"unet.{layer}.lora_B.weight"])
    assert theirs[f"{flat}.lora_down.weight"].equal(ours[f"unet.{layer}.lora_A.weight"])
    assert {int(v) for k, v in theirs.items() if k.endswith(".alpha")} == {4}
    assert len(theirs) == 3 * len(ours) / 2 == 3 * len(student.source.network.lora)


def test_merging_gives_plain_layers_and_leaves_the_base(distilled):
    student = distilled("sd15", FOUR, 4)
    before = student(prompts=PROMPTS)
    view, key = student.source.network, "backbone.unet.mid_block.resnets.0.conv1.weight"
    plain, bare = merged(view).state_dict(), merged(View(view.adapters, None)).state_dict()
    base = distilled("sd15").source.teacher.denoiser.state_dict()
    assert plain.keys() == bare.keys() == base.keys() and all(bare[name].equal(base[name]) for name in base)
    assert not plain[key].equal(base[key])
    plain = merged(view)
    noise, t = student.source.noise(0, [0]), torch.ones(1)
    cond, _ = student.source.teacher.encode(PROMPTS[:1])
    torch.testing.assert_close(plain(noise, t, cond), student.source.network(noise, t, cond), rtol=1e-5, atol=1e-5)
    assert student(prompts=PROMPTS).equal(before)


# -- extraction ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_student_is_extracted_and_its_error_told(distilled, tmp_path, name):
    said = export(distilled(name), tmp_path / "out", rank=8)
    errors = list(said["by_rank"].values())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-4 and 0 < said["elsewhere"] < 0.2
    assert said["max_pixel_difference_of_files"] <= 1 < said["max_pixel_difference"]
    held = json.loads((tmp_path / "out" / "extraction.json").read_text())
    assert held["by_rank"]["8"] == said["by_rank"][8] and set(held["by_layer"]) >= {"mid_block.resnets.0.conv1"}
    assert f"relative error {said['by_rank'][8]:.1%} at rank 8" in (tmp_path / "out" / "README.md").read_text()


def test_a_student_that_differs_in_a_few_directions_is_extracted_whole(distilled, tmp_path):
    """A LoRA merged into full weights comes back: its rank is enough."""
    student = distilled("sd15", FOUR, 4)
    full = distilled("sd15")
    full.source.network.load_state_dict(merged(student.source.network).state_dict())
    said = export(full, tmp_path / "out", rank=4)
    assert said["by_rank"][4] < 1e-3 and said["elsewhere"] == 0 and said["max_pixel_difference"] <= 2


def test_half_precision(distilled, tmp_path):
    said = export(distilled("sd15", (1.0,), 4), tmp_path / "out", dtype="fp16")
    weights = load_file(tmp_path / "out" / FILES[0])
    assert {x.dtype for x in weights.values()} == {torch.float16} and said["max_pixel_difference"] <= 3


@pytest.mark.parametrize("shape", [(6, 5), (5, 6), (6, 5, 3, 3)])
def test_factors_are_the_best_of_their_rank(shape):
    change = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for rank in (1, 3, 8):
        a, b, spectrum = factors(change, rank)
        assert a.shape == (rank, *shape[1:]) and b.shape[:2] == (shape[0], rank)
        torch.testing.assert_close(spectrum, torch.linalg.svdvals(change.flatten(1)), atol=1e-5, rtol=1e-5)
        lost = (change - product(a, b)).norm()
        torch.testing.assert_close(lost, spectrum[rank:].norm(), atol=1e-5, rtol=1e-4)
    assert not a[len(spectrum) :].any() and not b[:, len(spectrum) :].any()


def test_a_change_of_lower_rank_than_asked_is_exact():
    change = torch.outer(torch.arange(4.0), torch.arange(5.0))
    a, b, _ = factors(change, 3)
    torch.testing.assert_close(product(a, b), change)
    assert not a[1:].any() and not b[:, 1:].any()


def test_errors_are_of_all_layers_together_and_of_each():
    before = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("to_q", "to_k", "norm")})
    after = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("to_q", "to_k", "norm")})
    after.load_state_dict(before.state_dict())
    with torch.no_grad():
        after["to_q"].weight += torch.diag(torch.tensor([3.0, 4.0, 0, 0]))
        after["to_k"].weight += torch.diag(torch.tensor([5.0, 0, 0, 0]))
        after["norm"].bias += torch.tensor([0, 0, 0, 5.0])
    found = extract(before, after, 1)
    assert found.by_layer == pytest.approx({"to_q": 0.6, "to_k": 0.0}, abs=1e-5)
    assert found.by_rank == pytest.approx({1: (9 / 50) ** 0.5, 4: 0.0}, abs=1e-5)
    assert found.elsewhere == pytest.approx(25 / 75)


# -- refusals ------------------------------------------------------------------------------------------------------


def test_an_untrained_student_has_nothing_to_extract(distilled, tmp_path):
    student = distilled("sd15")
    student.source.network.load_state_dict(student.source.teacher.denoiser.state_dict())
    with pytest.raises(UserError, match="lora: the student's weights are those of its base; train it first"):
        export(student, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_refused(distilled, tmp_path):
    with pytest.raises(UserError, match="lora: this student reads the guidance scale"):
        export(distilled("sd15", reads_scale=True), tmp_path / "out")
    with pytest.raises(UserError, match="rank: 0: must be at least 1"):
        export(distilled("sd15"), tmp_path / "out", rank=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", ["strength", "layer"])
def test_a_file_that_draws_something_else_is_refused(distilled, tmp_path, monkeypatch, wrong):
    def scaled(view, strength):
        found = real(view, 0.8 * strength if wrong == "strength" else strength)
        return {k: v for k, v in found.items() if wrong == "strength" or "mid_block" not in k}

    real = exporter.scaled
    monkeypatch.setattr(exporter, "scaled", scaled)
    with pytest.raises(UserError, match="draws other images"):
        export(distilled("sd15", FOUR, 4), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_exporter_leaves_the_student_as_it_was(distilled, tmp_path):
    for rank in (0, 4):
        check_exporter(export, distilled("sd15", (1.0,), rank), tmp_path / f"out-{rank}")
