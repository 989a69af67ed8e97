"""student.init on pipelines: published students, whole and LoRA, and what does not fit."""

from pathlib import Path

import huggingface_hub
import published_students as made
import pytest
import tiny_pipelines as tiny
import tiny_students
import torch

from dmd2cli.adapters import merged
from dmd2cli.engine.distill import job
from dmd2cli.engine.run import run
from dmd2cli.errors import UserError
from dmd2cli.recipe import load
from dmd2cli.student import load_student, save_student

CPU = torch.device("cpu")
RECIPE = """
teacher: {{use: {use}, model: {model}}}
student: {{lr: 1.0e-4, init: {init}}}
critic: {{lr: 1.0e-4}}
losses: {{distribution_matching: {{guidance: 8.0}}, denoising: {{}}}}
data: {{prompts: {{use: prompts, path: prompts.txt}}}}
sampler: {{use: euler, steps: 2}}
run: {{steps: 2, batch: 2, threads: 1, precision: fp32, preview_every: null}}
"""


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path, filled):
    """A fresh working folder with some prompts, the filled hub cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(filled))
    (tmp_path / "prompts.txt").write_text("a llama\ncat\nthree\n")
    return tmp_path


def recipe(init, *changes, use="sdxl", model="stabilityai/stable-diffusion-xl-base-1.0"):
    with open("r.yaml", "w") as file:
        file.write(RECIPE.format(init=init, use=use, model=model))
    return load("r.yaml", changes)


def begun(*args, **options):
    found = job(recipe(*args, **options), CPU)
    return found


def refusal(*args, **options):
    with pytest.raises(UserError) as err:
        begun(*args, **options)
    assert "\n" not in str(err.value)
    return str(err.value)


def same(a, b):
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


def test_a_one_step_student_starts_from_the_published_one_of_four_and_inherits_its_licence(here):
    run(recipe("sdxl-4step", "student.times=[0.4]"), here / "run", job)
    found = load_student("run").contract
    assert found["trained"]["init"]["student"] == "sdxl-4step" and found["sampler"]["timesteps"] == [399]
    assert "CC BY-NC 4.0" in found["trained"]["init"]["licence"]
    weights = begun("sdxl-4step").distillation.generator.module.state_dict()
    assert same(weights, load_student("sdxl-4step").source.network.state_dict())


def test_the_published_lora_is_merged_or_taken_up():
    held = load_student("sdxl-4step-lora").source.network
    whole = begun("sdxl-4step-lora").distillation.generator.module.state_dict()
    assert same(whole, merged(held).state_dict())
    lora = "student.lora={rank: 4, alpha: 8.0}"
    for shared in ([], ["shared_base=true", "critic.lora={rank: 4}"]):
        view = begun("sdxl-4step-lora", lora, *shared).distillation.generator.module
        assert same(view.weights(), held.weights())
    assert "set student.lora.rank=4" in refusal("sdxl-4step-lora", "student.lora={rank: 8}")


def test_checkpointed_blocks_keep_their_names():
    made_of = begun("sdxl-4step", "run.checkpointing=true").distillation.generator.module
    assert same(made_of.state_dict(), load_student("sdxl-4step").source.network.state_dict())


def test_a_student_goes_into_one_that_reads_the_guidance_scale():
    changes = ["student.guidance={min: 1.0, max: 9.0}"]
    network = begun("sdxl-4step", *changes).distillation.generator.module
    held = load_student("sdxl-4step").source.network.state_dict()
    assert held.keys() < network.state_dict().keys()
    assert all(network.state_dict()[key].equal(value) for key, value in held.items())


def test_a_student_of_another_family_or_prediction_is_refused_by_both_names(model):
    other = tiny_students.student(model("sd15"), "sd15")
    save_student(folder := Path("other"), other.source.network, other.contract)
    said = refusal(folder)
    assert "other is a student of sd15 (" in said and "this recipe's teacher is sdxl (stabilityai" in said
    said = refusal(folder, use="sd15", model=model("sd15-v"))
    assert model("sd15") in said and model("sd15-v") in said and "predicts something else" in said
    wide = str(tiny.sd15("wide", sub={"block_out_channels": (24, 32)}))
    said = refusal(folder, use="sd15", model=wide)
    assert "its network is another one (has other shapes of backbone.unet." in said and wide in said


def test_a_missing_published_student_is_one_line_with_its_place(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    said = refusal("sdxl-4step", use="sd15", model=str(tiny.sd15("base")))
    assert said.startswith("r.yaml:3: student.init: sdxl-4step is not in the local hub cache: ") and made.FOUR in said
