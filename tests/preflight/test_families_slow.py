"""Trained networks of diffusers and of EDM, configured rightly and wrongly. Minutes of training."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from dmd2_plugins.digits.captions import caption
from dmd2_plugins.digits.data import images
from dmd2_plugins.edm.teacher import teacher

from dmd2cli import registry
from dmd2cli.core import weighting
from dmd2cli.core.noise import diffuse, scales
from dmd2cli.core.objective import denoising
from dmd2cli.core.parametrization import eps
from dmd2cli.core.random import Rng
from dmd2cli.data.shapes import Shapes
from dmd2cli.engine.preflight.candidates import with_
from dmd2cli.engine.preflight.preflight import preflight
from dmd2cli.protocols import Example
from dmd2cli.recipe import PretrainRecipe, load

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
CAPTIONED = "data.real={use: captioned}"


class Captioned:
    """The digits as images with captions."""

    def __len__(self):
        return len(images()[0])

    def __getitem__(self, i):
        x, labels = images()
        return Example(x[i].expand(3, -1, -1), caption(int(labels[i])))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A small Stable Diffusion that predicts v, trained for a minute or two."""
    pytest.importorskip("diffusers")
    from dmd2cli.engine.pretrain import pretraining
    from dmd2cli.engine.run import run

    folder = tmp_path_factory.mktemp("sd")
    recipe = load("sd-tiny-digits-teacher", ["run.steps=1500", "run.preview_every=1500"], model=PretrainRecipe)
    run(recipe, folder, pretraining)
    return folder / "pipeline"


def told(pipeline, *overrides, data=(CAPTIONED,)):
    """The pre-flight of a pipeline."""
    with registry.override("datasets", "captioned", Captioned):
        recipe = load("sd-tiny-digits", [f"teacher.model={pipeline}", *data, *overrides])
        return preflight(recipe, CPU, 64, 0)


def scheduled(pipeline, folder, **keys):
    """A copy of a pipeline with another configuration of its scheduler."""
    shutil.copytree(pipeline, folder)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))
    return folder


@pytest.mark.parametrize("data", [(CAPTIONED,), ()])
def test_a_small_stable_diffusion_is_ready_on_data_and_on_samples_of_its_own(pipeline, data):
    found = told(pipeline, data=data)
    assert found.verdict == "ready" and found.real == bool(data) and found.null.empty_prompt
    assert all(one.finite for one in found.precisions) and 0.5 < found.std < 2


@pytest.mark.parametrize("data", [(CAPTIONED,), ()])
def test_v_that_is_read_as_eps_is_named(pipeline, data):
    (one,) = told(pipeline, "teacher.prediction=eps", data=data).findings[:1]
    assert (one.rule, *one.change) == ("prediction", "teacher.prediction=v")


def test_linear_betas_for_scaled_linear_ones_are_named(pipeline, tmp_path):
    (one,) = told(scheduled(pipeline, tmp_path / "linear", beta_schedule="linear")).findings
    assert one.rule == "schedule" and one.change[0].startswith("the teacher's schedule: scaled_linear betas")


def test_a_vae_with_another_scaling_factor_is_named(pipeline, tmp_path):
    shutil.copytree(pipeline, tmp_path / "scaled")
    file = tmp_path / "scaled" / "vae" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"scaling_factor": 4 * config["scaling_factor"]}))
    assert "latents" in {one.rule for one in told(tmp_path / "scaled").findings}


@pytest.mark.parametrize("recipe", ["cifar10-cond", "sd15-dmd2", "sdxl-4step"])
def test_untrained_networks_of_the_smoke_recipes_get_a_verdict(recipe, tmp_path):
    import tiny_pipelines

    made = {"sd15-dmd2": tiny_pipelines.sd15, "sdxl-4step": tiny_pipelines.sdxl}.get(recipe)
    folder = [] if made is None else [f"teacher.model={made(tmp_path / 'pipe')}"]
    found = preflight(load(recipe, [*folder, "tier=cpu-smoke"]), CPU, 16, 0)
    assert found.verdict == "not ready" and found.findings[0].rule == "teacher-error"
    assert len(found.precisions) == (0 if made is None else 3)
    json.dumps(found.as_json(), allow_nan=False)


@pytest.fixture(scope="module")
def edm_teacher():
    """A tiny network of the EDM family, fitted to 16 x 16 shapes."""
    found, data = teacher("tiny-adm"), Shapes(size=16, classes=10)
    net = found.denoiser.train().requires_grad_(True)
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    for step in range(400):
        rng = Rng(0, step)
        picked = [data[(64 * step + i) % len(data)] for i in range(64)]
        x = torch.stack([one.x for one in picked])
        cond, null = found.encode([one.condition for one in picked])
        keep = (rng.uniform("drop", x) > 0.1)[:, None]
        cond = {name: torch.where(keep, value, null[name]) for name, value in cond.items()}
        t = 0.2 + 0.7 * rng.uniform("t", x)
        weight = weighting.edm(*scales(found.schedule, t, x), 0.5).float()
        denoising(net(diffuse(x, t, found.schedule, rng.normal("eps", x)), t, cond), x, weight).backward()
        optimiser.step()
        optimiser.zero_grad()
    net.eval().requires_grad_(False)
    return found


def of_edm(teacher):
    with registry.override("teachers", "edm", lambda preset=None, weights=None: teacher):
        return preflight(load("cifar10-cond", ["tier=cpu-smoke"]), CPU, 32, 0)


def test_an_edm_network_is_ready_and_named_where_it_is_read_as_eps(edm_teacher):
    assert of_edm(edm_teacher).verdict == "ready"
    wrong = of_edm(replace(edm_teacher, denoiser=with_(edm_teacher.denoiser, parametrization=eps)))
    one = wrong.findings[0]
    assert one.rule == "prediction" and one.change[0].startswith("the teacher's output: edm(0.")
