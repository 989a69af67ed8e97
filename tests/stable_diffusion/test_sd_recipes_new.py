"""`dmd2 recipes new` on tiny pipelines: what is found out, what is written, that it loads, plans and trains."""

import json
from pathlib import Path

import encoders
import original
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from dmd2cli import registry
from dmd2cli.cli import recipes
from dmd2cli.engine.distill import job
from dmd2cli.engine.inspect import find
from dmd2cli.engine.plan import choice
from dmd2cli.engine.plan.fit import parse, taken
from dmd2cli.engine.plan.memory import memory
from dmd2cli.errors import UserError
from dmd2cli.recipe import load
from dmd2cli.recipe_build import check
from dmd2cli.recipe_explain import explained

PLANNED = ("--device-memory", "24G", "-o", "r.yaml")
SMALL = ("run.steps=2", "run.batch=2", "run.precision=fp32", "run.teacher_weights=fp32", "run.threads=1")


@pytest.fixture
def new(tmp_path, monkeypatch):
    """Run the command in a fresh folder with a file of prompts; returns what it printed as JSON."""
    monkeypatch.chdir(tmp_path)
    Path("p.txt").write_text("a red cat\na llama\n")

    def new(*args, code=0):
        done = CliRunner().invoke(recipes.app, ["new", *map(str, args), "--json"])
        if isinstance(done.exception, UserError):
            raise done.exception
        assert done.exit_code == code, done
        return json.loads(done.stdout) | {"stderr": done.stderr}

    return new


@pytest.mark.parametrize(
    ("name", "family", "prediction", "schedule", "guidance", "null"),
    [
        ("sd15", "sd15", "eps", "1000 timesteps", 1.75, "the empty prompt"),
        ("sdxl", "sdxl", "eps", "1000 timesteps", 8.0, "zeros"),
        ("sdxl-v", "sdxl", "v", "1000 timesteps, the last of them pure noise (zero SNR)", 8.0, "zeros"),
        ("sd3", "diffusers", "flow", "straight paths, shift 3", 4.5, "the empty prompt"),
        ("pixart", "diffusers", "eps", "1000 timesteps", 4.5, "the empty prompt"),
    ],
)
def test_a_pipeline_becomes_a_recipe_that_trains(new, model, name, family, prediction, schedule, guidance, null):
    facts = new("--teacher", model(name), "--steps", 4, "--prompts", "p.txt", "--device-memory", "24G", "-o", "r.yaml")
    assert facts["family"] == family and facts["prediction"] == prediction and facts["schedule"] == schedule
    assert facts["null_condition"] == null and facts["resolution"] == "16 x 16" and facts["way"] == "full fine-tune"
    recipe = load("r.yaml")
    check(recipe)
    assert recipe.student.times == (1.0, 0.75, 0.5, 0.25) and recipe.run.micro_batch is None
    assert recipe.losses["distribution_matching"].options["guidance"] == guidance
    assert taken(memory(recipe, "cuda").peak(recipe.run.batch), "cuda") == facts["peak"] < parse("24G")
    work = job(load("r.yaml", SMALL), torch.device("cpu"))
    assert all(value.isfinite().all() for step in range(2) for value in work.step(step).values())


def test_every_value_that_is_written_has_a_reason(new, model):
    new("--teacher", model("sdxl"), "--steps", 4, "--prompts", "p.txt", "--device-memory", "24G", "-o", "r.yaml")
    rows = [row for row in explained("r.yaml")["rows"] if row["source"].startswith("r.yaml:")]
    assert len(rows) > 15 and all(row["note"] for row in rows)


# -- how it is trained -----------------------------------------------------------------------------------------


@pytest.fixture
def costs(monkeypatch):
    """Make ways take what they take in units of GiB, at least and for each sample."""

    class Flat:
        batch = 128

        def __init__(self, recipe):
            lora, shared = recipe.student.lora is not None, recipe.shared_base
            self.least = (2 if shared else 6 if lora else 20) * 2**30
            self.row = (1 if recipe.run.checkpointing else 4) * 2**30

        def peak(self, rows):
            return self.least + rows * self.row

    monkeypatch.setattr(choice, "memory", lambda recipe, kind: Flat(recipe))
    monkeypatch.setattr(choice, "lasting", lambda recipe, kind: Flat(recipe).least)


@pytest.mark.parametrize(
    ("device", "way", "rows"),
    [
        ("80G", "full fine-tune", 8),
        ("24G", "full fine-tune with checkpointing", 2),
        ("16G", "LoRA", 8),
        ("6G", "LoRA on a shared base", 2),
    ],
)
def test_the_first_way_that_fits_is_taken(new, model, costs, device, way, rows):
    facts = new("--teacher", model("sd15"), "--steps", 2, "--device-memory", device, "-o", "r.yaml")
    recipe = load("r.yaml")
    assert (facts["way"], facts["micro_batch"], recipe.run.micro_batch) == (way, rows, rows)
    assert recipe.shared_base == ("shared" in way) and (recipe.student.lora is not None) == ("LoRA" in way)
    assert (recipe.critic.lora is not None) == ("LoRA" in way)
    assert recipe.run.checkpointing == (way != choice.WAYS[0].name)
    assert recipe.run.precision == "bf16" and recipe.student.lr == (5.0e-5 if "LoRA" in way else 1.0e-5)


def test_a_shared_base_trains(new, model, costs):
    new("--teacher", model("sdxl"), "--steps", 4, "--prompts", "p.txt", "--device-memory", "6G", "-o", "r.yaml")
    ranks = ("student.lora.rank=2", "critic.lora.rank=2")
    work = job(load("r.yaml", [*SMALL, "run.micro_batch=1", *ranks]), torch.device("cpu"))
    assert all(value.isfinite().all() for value in work.step(0).values())


def test_nothing_that_fits_is_one_line_with_the_smallest_that_would(new, model, costs):
    with pytest.raises(UserError) as refused:
        new("--teacher", model("sd15"), "--steps", 2, "--device-memory", "2G", "-o", "r.yaml")
    said = "nothing fits 2.0 GiB: the smallest, LoRA on a shared base at micro-batch 1, takes 3.7 GiB"
    assert said in str(refused.value) and not Path("r.yaml").exists()


def test_without_a_gpu_all_weights_learn_and_that_is_said(new, model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    facts = new("--teacher", model("sd15"), "--steps", 1, "-o", "r.yaml")
    recipe = load("r.yaml")
    assert facts["peak"] is None and "nothing was planned" in facts["stderr"]
    assert recipe.run.precision == "auto" and recipe.student.lora is None and not recipe.run.checkpointing
    assert recipe.data.prompts.options["path"] == "prompts.txt" and "write some into prompts.txt" in facts["stderr"]


# -- data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("captions", [True, False])
def test_images_of_a_latent_teacher_have_to_be_encoded_first(new, model, captions):
    pictures = encoders.images(Path("pictures"), side=16)
    if not captions:
        [file.unlink() for file in pictures.rglob("*") if file.suffix in (".txt", ".jsonl")]
    facts = new("--teacher", model("sd15"), "--steps", 2, "--data", "pictures", *PLANNED)
    how = "" if captions else " --no-captions"
    command = f"dmd2 data cache r.yaml --data pictures{how} -o r-cache"
    recipe = load("r.yaml")
    assert f"first run `{command}`" in facts["stderr"] and f"# {command}\n" in Path("r.yaml").read_text()
    assert (recipe.data.real.use, recipe.data.real.options["path"]) == ("latents", "r-cache")
    assert (recipe.data.prompts.options["path"] == "r-cache") == captions
    assert {"gan_generator", "gan_critic"} <= recipe.losses.keys()


def test_images_of_another_size_are_prepared_before(new, model):
    encoders.images(Path("pictures"), side=20)
    facts = new("--teacher", model("sd15"), "--steps", 2, "--data", "pictures", *PLANNED)
    assert "first run `dmd2 data prepare pictures -o pictures-16.zip --size 16 --captions`" in facts["stderr"]
    assert "first run `dmd2 data cache r.yaml --data pictures-16.zip -o r-cache`" in facts["stderr"]


def test_a_cache_is_used_as_it_is(new, model, teacher):
    from dmd2cli.engine.cache import Options, encoder, images, make

    encoders.images(Path("pictures"), side=16)
    with registry.override("teachers", "tiny", lambda: teacher("sd15")):
        recipe = load("digits", ["teacher=tiny"])
        by = encoder(recipe, torch.device("cpu"), lambda of: images("pictures", "train", True, of), Options())
        make(by, Path("cache"), range(4), 4)
    new("--teacher", model("sd15"), "--steps", 2, "--data", "cache", "--device-memory", "24G", "-o", "r.yaml")
    recipe = load("r.yaml")
    assert recipe.data.real.options == recipe.data.prompts.options == {"path": "cache"}
    assert not any(n.name == "CLIPTextModel" for n in memory(recipe, "cuda").networks)
    work = job(load("r.yaml", SMALL), torch.device("cpu"))
    assert all(value.isfinite().all() for value in work.step(0).values())
    with pytest.raises(UserError, match="cache: latents are 4 x 8 x 8, and the teacher's are 4 x 16 x 16"):
        new("--teacher", model("sd15"), "--steps", 2, "--data", "cache", "teacher.resolution=32", "-o", "s.yaml")


# -- what it is ------------------------------------------------------------------------------------------------


def test_a_single_file_is_told_by_its_layout(pipe, model, tmp_path):
    save_file(original.checkpoint(pipe("sdxl")), tmp_path / "it.safetensors")
    found = find(str(tmp_path / "it.safetensors"), {"config": model("sdxl"), "text": model("sdxl")})
    assert found.family == "sdxl" and found.use["config"] == model("sdxl")


def test_a_single_file_lacks_tokenizers_and_that_is_said(new, pipe, model, tmp_path):
    save_file(original.checkpoint(pipe("sd15")), tmp_path / "it.safetensors")
    config, text = f"teacher.config={model('sd15')}", f"teacher.text={model('sd15')}"
    args = ("--teacher", "it.safetensors", "--steps", 4, "--prompts", "p.txt", "--device-memory", "24G", config)
    assert "a single file has no tokenizers" in new(*args)["stderr"] and Path("it-4step.yaml").is_file()
    assert "tokenizers" not in new(*args, text, "-o", "r.yaml")["stderr"]
    work = job(load("r.yaml", SMALL), torch.device("cpu"))
    assert all(value.isfinite().all() for value in work.step(0).values())


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--teacher", "nope", "--steps", 4), "nope: no such file or folder, and no teacher of that name; choose from"),
        (("--teacher", "./no.safetensors", "--steps", 4), "./no.safetensors: no such file or folder; name a"),
        (("--teacher", "some/model", "--steps", 4), "some/model: not in the local hub cache; get it with `hf download"),
        (("--teacher", "empty", "--steps", 4), "empty: has no model_index.json; choose a whole diffusers folder"),
        (("--teacher", "p.txt", "--steps", 4), "p.txt: "),
        (("--teacher", "it.safetensors", "--steps", 4), "it.safetensors: has another layout than Stable Diffusion's"),
        (("--teacher", "it.pkl", "--steps", 4), "it.pkl: is a pickle; make it safetensors with `dmd2 convert it.pkl"),
        (("--teacher", "TINY", "--steps", 0), "--steps 0: must be at least 1"),
        (("--teacher", "TINY", "--steps", 3), "--steps 3: 0.666667 is between two of the 1000 timesteps"),
        (("--teacher", "TINY", "--steps", 4, "--device-memory", "24X"), "--device-memory 24X: write a size such as"),
        (("--teacher", "TINY", "--steps", 4, "--prompts", "no.txt"), "no.txt: no such file"),
        (("--teacher", "TINY", "--steps", 4, "--data", "no"), "no: no such file or folder; expected a folder"),
        (("--teacher", "TINY", "--steps", 4, "-o", "p.txt"), "p.txt: exists already; name another file, or remove it"),
        (("--teacher", "TINY", "--steps", 4, "-o", "no/r.yaml"), "no/r.yaml: cannot be written: No such file"),
        (("--teacher", "TINY", "--steps", 4, "run.steps=3"), "'run.steps=3': not teacher.KEY=VALUE"),
        (("--teacher", "TINY", "--steps", 4, "teacher.foo=3"), "foo: unknown key"),
        (("--teacher", "digits", "--steps", 4, "--prompts", "p.txt"), "--prompts: digits reads no prompts; leave"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(new, model, tmp_path, args, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "it.pkl").write_bytes(b"\x80\x04.")
    save_file({"a": torch.zeros(2)}, tmp_path / "it.safetensors")
    with pytest.raises(UserError) as refused:
        new(*(model("sd15") if arg == "TINY" else arg for arg in args))
    assert said in str(refused.value) and "\n" not in str(refused.value)
    assert not list(tmp_path.glob("*.yaml"))
