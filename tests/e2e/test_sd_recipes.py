"""The recipes of Stable Diffusion from end to end at tier=cpu-smoke, on pipelines of random weights."""

import json

import pytest
import tiny_pipelines

ONE_STAGE = ("sd15-4step", "sdxl-4step", "sdxl-4step-lora", "sdxl-4step-24gb")
ON_PAIRS = {"sd15-dmd": 10, "sd15-dmd-table5": 120, "sdxl-1step": 10}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A recipe -> the folder of a pipeline for it."""
    made = tiny_pipelines.folders({"sd15": tiny_pipelines.sd15, "sdxl": tiny_pipelines.sdxl}, tmp_path_factory)
    return lambda recipe: made(recipe.partition("-")[0])


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def steps(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def smoke(dmd2, recipe, folder, *more):
    done = dmd2("distill", recipe, f"teacher.model={folder}", "tier=cpu-smoke", *more, "-o", "run")
    assert done.code == 0, done.err
    assert dmd2("sample", "a llama", "--student", "run", "-o", "llama.png").code == 0
    return json.loads((open("run/student/student.json")).read()), done.err


@pytest.mark.parametrize("recipe", ONE_STAGE)
def test_four_steps_with_the_gan_on_images_that_are_encoded_on_the_fly(here, dmd2, model, recipe):
    contract, said = smoke(dmd2, recipe, model(recipe), "run.steps=4", "run.save_every=4")
    assert contract["sampler"]["timesteps"] == [999, 749, 499, 249]
    assert contract["guidance"] == (3.0 if recipe.startswith("sd15") else 8.0)
    assert ("lora" in contract) == (recipe not in ("sd15-4step", "sdxl-4step"))
    assert all("critic/gan_critic" in step for step in steps(here / "run")) and "encoded at every step" in said


def test_dmd2_in_two_stages_adds_the_gan(here, dmd2, model):
    contract, _ = smoke(dmd2, "sd15-dmd2", model("sd15"))
    assert contract["sampler"]["timesteps"] == [999] and contract["guidance"] == 1.75
    assert ["critic/gan_critic" in step for step in steps(here / "run")] == [False, False, True, True]


@pytest.mark.parametrize("recipe", ON_PAIRS)
def test_recipes_on_pairs(here, dmd2, model, recipe):
    smoky = (f"teacher.model={model(recipe)}", "tier=cpu-smoke")
    done = dmd2("pairs", recipe, *smoky, "-o", "pairs", "-n", ON_PAIRS[recipe])
    assert done.code == 0, done.err
    contract, _ = smoke(dmd2, recipe, model(recipe), "data.pairs.path=pairs")
    assert contract["guidance"] == {"sd15-dmd": 3.0}.get(recipe, 8.0)
    assert contract["sampler"]["timesteps"] == [399 if recipe == "sdxl-1step" else 999]
    terms = [{key.rpartition("/")[2] for key in step} for step in steps(here / "run")]
    if recipe == "sdxl-1step":
        assert {"regression"} == terms[0] & {"regression", "distribution_matching", "denoising", "gan_critic"}
        assert {"distribution_matching", "denoising", "gan_critic"} <= terms[-1] and "regression" not in terms[-1]
    else:
        assert all({"regression", "distribution_matching", "denoising"} <= found for found in terms)


def test_a_run_without_its_model_is_refused_in_one_line(dmd2):
    done = dmd2("distill", "sdxl-4step", "tier=cpu-smoke", "-o", "run")
    assert done.code == 2 and len(done.err.strip().splitlines()) == 1
    assert "stabilityai/stable-diffusion-xl-base-1.0: not in the local hub cache" in done.err
