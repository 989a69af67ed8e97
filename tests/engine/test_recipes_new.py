"""`dmd2 recipes new` for teachers of classes, of pixels, and by name: what is written loads and trains."""

import json
from pathlib import Path

import pytest
import torch
from dmd2_plugins.edm.teacher import teacher as edm
from typer.testing import CliRunner

from dmd2cli import registry
from dmd2cli.cli import recipes
from dmd2cli.engine.distill import job
from dmd2cli.engine.plan.memory import memory
from dmd2cli.errors import UserError
from dmd2cli.recipe import load
from dmd2cli.recipe_new import plain
from dmd2cli.recipe_yaml import parse
from dmd2cli.weights import save_weights

SMALL = ("run.steps=2", "run.batch=4", "run.precision=fp32", "run.threads=1")


@pytest.fixture
def new(tmp_path, monkeypatch):
    """Run the command in a fresh folder; returns (what it printed as JSON, the recipe)."""
    monkeypatch.chdir(tmp_path)

    def new(*args):
        done = CliRunner().invoke(recipes.app, ["new", *map(str, args), "-o", "r.yaml", "--json"])
        if isinstance(done.exception, UserError):
            raise done.exception
        assert done.exit_code == 0, done
        return json.loads(done.stdout), load("r.yaml")

    return new


def steps(*overrides):
    """Two steps of the recipe that was written."""
    work = job(load("r.yaml", [*SMALL, *overrides]), torch.device("cpu"))
    return [work.step(step) for step in range(2)]


@pytest.mark.parametrize(("name", "conditions"), [("digits", "10 classes"), ("gmm", "none")])
def test_a_registered_teacher_by_its_name(new, name, conditions):
    facts, recipe = new("--teacher", name, "--steps", 2, "--data", name)
    assert facts["family"] == name and facts["conditions"] == conditions and facts["way"] == "full fine-tune"
    assert (recipe.data.prompts is not None) == (name == "digits") and recipe.student.lr == 1.0e-3
    assert recipe.sampler.use == "heun" and recipe.losses["distribution_matching"].options["guidance"] == 1.0
    assert "gan_critic" in recipe.losses and recipe.data.real.use == name
    assert all(v.isfinite().all() for found in steps() for v in found.values())


def test_a_converted_file_says_whose_it_is(new):
    made = edm("tiny-adm")
    save_weights(made.denoiser.state_dict(), Path("it.safetensors"), {"details": json.dumps(dict(made.details))})
    facts, recipe = new("--teacher", "it.safetensors", "--steps", 2, "--device-memory", "8G")
    assert facts["family"] == "edm" and facts["resolution"] == "16 x 16" and facts["null_condition"] == "no label"
    assert facts["schedule"] == "EDM's, sigma 0.002 to 80" and facts["parameters"] > 0
    assert recipe.teacher.options == {"weights": "it.safetensors"} and recipe.data.prompts.options == {"classes": 10}
    assert all(v.isfinite().all() for found in steps() for v in found.values())
    assert memory(recipe, "cuda").networks[0].parameters == facts["parameters"]


def test_images_of_pixels_are_read_as_they_are_and_measured(new):
    from dmd2cli.data.shapes import Shapes
    from dmd2cli.images import save_png, to_pil

    shapes = Shapes(size=16, classes=2, count=4)
    for i in range(4):
        image = ((shapes[i].x + 1) * 127.5).round().byte()
        save_png(to_pil(image), Path("raw") / f"class{shapes[i].condition}" / f"{i}.png")
    args = ("--teacher", "edm", "--steps", 1, "--data", "raw", "--device-memory", "8G", "teacher.preset=tiny-adm")
    _, recipe = new(*args)
    assert recipe.data.real.use == "images" and recipe.data.real.options == {"path": "raw", "size": 16}
    assert recipe.metrics[0].use == "fid" and recipe.metrics[0].options == {"reference": "raw"}
    assert all(v.isfinite().all() for found in steps() for v in found.values())


def test_images_for_samples_that_are_none_are_refused(new):
    from PIL import Image

    Path("raw").mkdir()
    Image.new("RGB", (8, 8)).save("raw/a.png")
    with pytest.raises(UserError, match="raw: images are 3 x height x width, this teacher's samples 1 x 8 x 8"):
        new("--teacher", "digits", "--steps", 1, "--data", "raw")
    assert not Path("r.yaml").exists()


def test_what_cannot_be_planned_is_refused_where_a_plan_is_asked(new):
    with pytest.raises(UserError, match="gmm cannot be built without its weights .*: no plan for it"):
        new("--teacher", "gmm", "--steps", 1, "--device-memory", "8G")
    assert not Path("r.yaml").exists()


def test_a_teacher_that_needs_its_weights_is_named(new):
    with registry.override("teachers", "closed", lambda: None), pytest.raises(UserError, match="takes no skeleton"):
        new("--teacher", "closed", "--steps", 1)


VALUES = [5e-7, 1.0, 0.4, 1e20, "p.txt", "a/b-1.yaml", "true", "1", "a b", "5e-7", None, [1.0, 0.5], {"a": "x: y"}]


@pytest.mark.parametrize("value", VALUES)
def test_values_are_written_as_strict_yaml(value):
    assert parse(f"key: {plain(value)}", str).data == {"key": value}
