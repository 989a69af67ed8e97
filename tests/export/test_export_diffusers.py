"""The diffusers folder: a pipeline that draws the student's images, at its timesteps, and cannot do otherwise."""

import json
import re

import pytest
import torch
from dmd2_plugins.export import diffusers as exporter
from dmd2_plugins.export.diffusers import export
from dmd2_plugins.export.pipeline import plain
from safetensors.torch import load_file
from tiny_students import FOUR, ONE, numbered

from dmd2cli.errors import UserError
from dmd2cli.student import load_student, save_student
from dmd2cli.testing import check_exporter

PROMPTS = ["a red cat", "seven llama wearing sunglasses"]
CASES = {
    "sd15-four": ("sd15", FOUR, {}),
    "sd15-v-two": ("sd15-v", (1.0, 0.5), {}),
    "sd15-reads-scale": ("sd15", (1.0,), {"reads_scale": True}),
    "sdxl-lora-four": ("sdxl", FOUR, {"rank": 4}),
    "sdxl-one": ("sdxl", ONE, {}),
}


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """Case -> (student, folder, what the exporter said), each exported once."""
    import tiny_students

    made = {}

    def build(case):
        if case not in made:
            name, times, options = CASES[case]
            student = tiny_students.student(model(name), name[:4], times, **options)
            folder = tmp_path_factory.mktemp("export") / case
            made[case] = student, folder, export(student, folder)
        return made[case]

    return build


def loaded(folder):
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def recorded(pipe):
    """(batch, timestep) of every call of the UNet from here on."""
    calls = []
    pipe.unet.register_forward_pre_hook(lambda module, args: calls.append((len(args[0]), int(args[1]))))
    return calls


@pytest.mark.parametrize("case", CASES)
def test_the_pipeline_draws_what_dmd2_sample_draws(exported, monkeypatch, case):
    student, folder, said = exported(case)
    pipe, n = loaded(folder), len(student.times)
    calls, noise = recorded(pipe), student.source.noise(3, range(2))
    numbered(monkeypatch, 3, 2)
    scale = {"guidance_scale": student.source.guidance} if student.source.reads_scale else {}
    images = pipe(PROMPTS, num_inference_steps=n, latents=noise, output_type="pt", **scale).images
    images = (images * 255).to(torch.uint8)
    assert (images.int() - student(prompts=PROMPTS, seed=3).int()).abs().max() <= 1
    assert calls == [(2, t) for t in said["timesteps"]] and said["max_pixel_difference"] <= 1
    assert (images.int() - student(prompts=PROMPTS, seed=4).int()).abs().max() > 20


@pytest.mark.parametrize(
    ("case", "steps"),
    [("sd15-four", [999, 749, 499, 249]), ("sdxl-lora-four", [999, 749, 499, 249]), ("sdxl-one", [399])],
)
@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_guidance_scale_changes_neither_the_calls_nor_the_picture(exported, case, steps, scale):
    pipe = loaded(exported(case)[1])
    calls = recorded(pipe)

    def draw(**options):
        options |= {"generator": torch.Generator().manual_seed(0), "output_type": "np"}
        return torch.from_numpy(pipe("a cat", num_inference_steps=len(steps), **options).images)

    assert draw(guidance_scale=scale, negative_prompt="red").equal(draw())
    assert calls == [(1, t) for t in steps] * 2


@pytest.mark.parametrize("case", ["sd15-four", "sdxl-lora-four", "sdxl-one"])
def test_a_call_without_its_number_of_steps_raises(exported, case):
    pipe = loaded(exported(case)[1])
    calls = recorded(pipe)
    for more in ({}, {"num_inference_steps": 5}, {"num_inference_steps": 25}):
        with pytest.raises(ValueError, match="num_inference_steps"):
            pipe("a cat", **more)
    assert calls == []


def test_fewer_steps_than_trained_are_some_of_the_trained_ones(exported):
    pipe = loaded(exported("sd15-four")[1])
    calls = recorded(pipe)
    pipe("a cat", num_inference_steps=2)
    assert calls == [(1, 999), (1, 499)]


def test_the_scheduler_of_one_time_has_the_first_entries_of_the_table(exported):
    student, folder, _ = exported("sdxl-one")
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert config["num_train_timesteps"] == len(config["trained_betas"]) == 400
    assert config["original_inference_steps"] == 1
    table = student.source.teacher.schedule.alphas_cumprod
    assert loaded(folder).scheduler.alphas_cumprod.double().allclose(table[:400], rtol=1e-5)


def test_the_unet_has_a_guidance_embedding_of_zero(exported):
    _, folder, _ = exported("sd15-four")
    weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert not weights["time_embedding.cond_proj.weight"].any() and weights["conv_in.weight"].any()
    weights = load_file(exported("sd15-reads-scale")[1] / "unet" / "diffusion_pytorch_model.safetensors")
    assert weights["time_embedding.cond_proj.weight"].any()


@pytest.mark.parametrize("case", ["sd15-four", "sdxl-one", "sd15-reads-scale"])
def test_the_card_opens_with_a_call_that_works(exported, case):
    _, folder, said = exported(case)
    card = (folder / "README.md").read_text()
    code = re.match(r"# \S+\n\n```python\n(.*?)```", card, re.DOTALL).group(1)
    assert said["call"] in code and "base model: CreativeML Open" in card and "critic updates | 30" in card
    code = code.replace(f'"{folder.name}"', f'"{folder}"').replace('"cuda", torch.float16', '"cpu"')
    names = {}
    exec(code, names)
    assert names["image"].size == (16, 16)


def test_nothing_in_the_folder_says_where_the_model_was(exported, model):
    _, folder, _ = exported("sd15-four")
    texts = [p for p in folder.rglob("*") if p.suffix in (".json", ".md") and p.name != "dmd2.json"]
    assert len(texts) > 6 and not any(model("sd15") in p.read_text() for p in texts)


def test_half_precision_is_half_the_size_and_nearly_the_same(exported, distilled, tmp_path):
    said = export(distilled("sd15"), tmp_path / "half", dtype="fp16")
    weights = load_file(tmp_path / "half" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {x.dtype for x in weights.values()} == {torch.float16} and said["max_pixel_difference"] <= 3
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("rank", [0, 4])
def test_a_student_from_disk_is_exported(distilled, tmp_path, rank):
    made = distilled("sd15", (1.0,), rank)
    save_student(tmp_path / "run" / "student", made.source.network, made.contract)
    said = export(load_student(tmp_path / "run"), tmp_path / "out")
    plain = load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    merged = export(made, tmp_path / "other")
    other = load_file(tmp_path / "other" / "unet" / "diffusion_pytorch_model.safetensors")
    assert said["max_pixel_difference"] <= 1 and merged["call"] == said["call"]
    assert all(plain[name].equal(value) for name, value in other.items())


def test_an_exporter_leaves_the_student_as_it_was(distilled, tmp_path):
    for case in ("sd15", "sdxl"):
        check_exporter(export, distilled(case, (1.0,), 4 if case == "sdxl" else 0), tmp_path / case)


@pytest.mark.parametrize(
    ("times", "options", "words"),
    [
        ((1.0, 0.7, 0.2), {}, "999, 699, 199 are not evenly spaced down to 0, as LCMScheduler's are; choose lora or"),
        ((0.9, 0.5), {}, "899, 499 are not evenly spaced"),
        (FOUR, {"stochastic": False}, "LCMScheduler draws fresh noise between calls, this student does not"),
    ],
)
def test_times_that_the_scheduler_cannot_have_are_refused(distilled, tmp_path, times, options, words):
    with pytest.raises(UserError, match=f"diffusers: .*{words}"):
        export(distilled("sd15", times, **options), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("times", [(0.9, 0.6, 0.3), (0.2,), (1.0,)])
def test_even_times_need_not_start_at_the_end_of_the_table(distilled, tmp_path, times):
    said = export(distilled("sd15", times), tmp_path / "out")
    assert said["timesteps"] == [round(1000 * t) - 1 for t in times]


def test_other_images_are_refused_and_nothing_is_left(distilled, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "reloaded", lambda folder, student: 255 - reloaded(folder, student))
    with pytest.raises(UserError, match=r"out: loaded back it draws other images \(mean .* of 255, 0.2 allowed\)"):
        export(distilled("sd15", (1.0,)), tmp_path / "out")
    assert not list(tmp_path.iterdir())


reloaded = exporter.reloaded


@pytest.mark.parametrize("wrong", ["times", "prompts", "guidance"])
def test_the_comparison_sees_what_is_wrong_even_on_a_network_this_small(distilled, tmp_path, monkeypatch, wrong):
    student = distilled("sd15")
    if wrong == "times":
        monkeypatch.setattr(exporter, "reloaded", lambda folder, student: reloaded(folder, student.at_steps(2)))
    elif wrong == "prompts":
        monkeypatch.setattr(exporter, "PROMPTS", ("three", "a photograph of a red cat"))
    else:
        monkeypatch.setattr(exporter, "unguided", lambda student: plain(student).backbone.unet)
    with pytest.raises(UserError, match="draws other images"):
        export(student, tmp_path / "out")


def test_what_is_there_already_is_left_alone(distilled, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(UserError, match="out: is there already; name a new folder, or remove that one"):
        export(distilled("sd15"), tmp_path / "out")
    assert (tmp_path / "out" / "mine").exists()


def test_an_unknown_dtype_is_refused(distilled, tmp_path):
    with pytest.raises(UserError, match="dtype: int4: choose from fp32, fp16"):
        export(distilled("sd15"), tmp_path / "out", dtype="int4")
