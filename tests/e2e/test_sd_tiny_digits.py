"""A small Stable Diffusion that learns: pretrained on captioned digits, then distilled in three ways.

The slow tests take 20 CPU minutes; with -s they print every distance.
"""

import json

import pytest

from dmd2cli.core import denoiser
from dmd2cli.losses import distribution_matching

WAYS = ("sd-tiny-digits", "sd-tiny-digits-lora", "sd-tiny-digits-shared")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    """The prompts of the recipes, one on each line."""
    path = tmp_path_factory.mktemp("prompts") / "ten.txt"
    path.write_text("".join(f"a handwritten {word}\n" for word in WORDS))
    return path


def pretrained(dmd2, folder, *changes):
    """The folder of the pipeline."""
    done = dmd2("pretrain", "sd-tiny-digits-teacher", *changes, "-o", folder)
    assert done.code == 0, done.err
    return folder / "pipeline"


def distilled(dmd2, pipeline, recipe, *changes):
    done = dmd2("distill", recipe, f"teacher.model={pipeline}", *changes, "-o", "run")
    assert done.code == 0, done.err


def measured(dmd2, prompts, *subject):
    """(FD, share of images in which the digit of the prompt is recognised) of 1,000 images; printed as well."""
    done = dmd2("eval", "fd-digits", *subject, "--prompts", prompts, "--per-prompt", 100, "--no-baselines")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    print(f"\n{subject[1]}: FD {found['value']:.3f}, recognised {found['class_accuracy']:.3f}")
    return found["value"], found["class_accuracy"]


# -- a few steps of everything -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blank(dmd2, tmp_path_factory):
    """A pipeline after four steps of training: it knows nothing, and is whole."""
    few = ("run.steps=4", "run.save_every=4", "task.vae_steps=2", "run.batch=8")
    return pretrained(dmd2, tmp_path_factory.mktemp("blank"), *few)


def test_diffusers_loads_the_pipeline_and_draws_with_it(blank):
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(blank, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a handwritten three", num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (8, 8, 3) and isinstance(pipe.scheduler, DDIMScheduler)
    ids = pipe.tokenizer("a handwritten three").input_ids
    assert len(ids) == 5, "each word of a caption is one token"
    assert pipe.tokenizer.decode(ids[1:-1]).strip() == "a handwritten three"


@pytest.mark.parametrize("recipe", WAYS)
def test_every_way_of_learning_runs(here, dmd2, blank, recipe):
    distilled(dmd2, blank, recipe, "run.steps=6", "run.batch=4", "run.save_every=3", "run.threads=1")
    assert dmd2("sample", "a handwritten three", "--student", "run", "-o", "three.png").code == 0
    contract = json.loads((here / "run/student/student.json").read_text())
    assert contract["sampler"]["timesteps"] == [999, 749, 499, 249] and contract["guidance"] == 2.0


# -- what it learns ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(dmd2, tmp_path_factory):
    return pretrained(dmd2, tmp_path_factory.mktemp("teacher") / "run")


@pytest.fixture(scope="module")
def undistilled(dmd2, trained, ten, tmp_path_factory):
    """FD of the teacher in four steps at the guidance of the distillation, by sampler."""
    folder, found = tmp_path_factory.mktemp("recipes"), {}
    for name in ("ddim", "euler", "unipc"):
        recipe = folder / f"{name}.yaml"
        teacher = f"teacher: {{use: sd15, model: {trained}}}\nsampler: {{use: {name}}}\n"
        recipe.write_text(f"extends: sd-tiny-digits\n{teacher}")
        found[name] = measured(dmd2, ten, "--teacher", recipe, "--steps", 4, "--guidance", 2.0)[0]
    return found


def good(distance, recognised, undistilled):
    """At most half the FD of the undistilled sampler, the better of two, and the prompted digit in nine of ten."""
    return distance <= min(undistilled["ddim"], undistilled["euler"]) / 2 and recognised >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("recipe", WAYS)
def test_a_student_halves_the_distance_of_the_teacher_in_as_many_steps(here, dmd2, trained, ten, undistilled, recipe):
    distilled(dmd2, trained, recipe)
    distance, recognised = measured(dmd2, ten, "--student", "run")
    assert good(distance, recognised, undistilled)
    assert distance < undistilled["unipc"]                 # of second order, and still no match


def backwards(patch):
    real = distribution_matching.with_gradient
    patch.setattr(distribution_matching, "with_gradient", lambda x, grad: real(x, -grad))


def swapped(patch):
    real = denoiser.guide
    patch.setattr(denoiser, "guide", lambda null, cond, *more: real(cond, null, *more))


def conditional(patch):
    from dmd2_plugins.stable_diffusion.prompts import Prompts

    real = Prompts.__call__
    patch.setattr(Prompts, "__call__", lambda self, raw: (real(self, raw)[0],) * 2)


@pytest.mark.slow
@pytest.mark.parametrize("broken", [backwards, swapped, conditional])
def test_a_broken_one_does_not(here, dmd2, trained, ten, undistilled, monkeypatch, broken):
    """The sign of the distribution-matching gradient, the sides of the guidance, the null embedding."""
    with monkeypatch.context() as patch:
        broken(patch)
        distilled(dmd2, trained, "sd-tiny-digits")
    assert not good(*measured(dmd2, ten, "--student", "run"), undistilled)
