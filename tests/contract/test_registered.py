"""Every registered name of every kind keeps its protocol; a new name fails here until it has a case."""

import encoders
import image_files
import pytest
import tiny_pipelines
import torch
from dmd2_plugins.digits.data import images, to_uint8
from dmd2_plugins.toy.mixture import mixture
from dmd2_plugins.toy.picture import pixels
from dmd2_plugins.toy.picture import to_uint8 as dots

from dmd2cli import registry
from dmd2cli.core.random import Rng
from dmd2cli.engine.distill import job
from dmd2cli.engine.pairs import make, maker
from dmd2cli.images import save_singles
from dmd2cli.recipe import load
from dmd2cli.student import load_student
from dmd2cli.testing import (
    check_dataset,
    check_exporter,
    check_extractor,
    check_loss,
    check_metric,
    check_reward,
    check_sampler,
    check_teacher,
    check_weighting,
)

CASES = {
    "teachers": [
        ("diffusers", {"resolution": 16, "text_tokens": 9}),
        ("digits", {}),
        ("edm", {"preset": "tiny-adm"}),
        ("edm", {"preset": "tiny-ddpmpp"}),
        ("edm", {"preset": "tiny-ncsnpp"}),
        ("gmm", {"pretrain_steps": 50}),
        ("gmm", {"schedule": "ddpm", "classes": 5, "pretrain_steps": 0}),
        ("gmm", {"schedule": "flow", "layout": "ring8", "pretrain_steps": 0}),
        ("sd15", {}),
        ("sdxl", {}),
    ],
    "losses": [
        ("denoising", {}),
        ("denoising", {"weighting": "uniform"}),
        ("distribution_matching", {"guidance": 3.0}),
        ("denoising", {"t_min": 0.1, "t_max": 0.9}),
        ("distribution_matching", {"guidance": 3.0, "guidance_interval": (0.2, 0.8), "guidance_rescale": 0.5}),
        ("distribution_matching", {"score": "real"}),
        ("diversity", {}),
        ("gan_critic", {}),
        ("gan_critic", {"shared_noise": True, "diffusion_max_time": 0.5}),
        ("gan_critic", {"r1": 1.0}),
        ("gan_critic", {"r1": 1.0, "r1_std": 0.1}),
        ("gan_generator", {}),
        ("gan_generator", {"shared_noise": True, "diffusion_max_time": 0.0}),
        ("joint_critic", {}),
        ("joint_critic", {"shared_noise": True}),
        ("regression", {"distance": "huber"}),
        ("regression", {"distance": "l2"}),
        ("reward", {"model": "digits-ink"}),
    ],
    "samplers": [
        ("ddim", {"steps": 1}),
        ("ddim", {"steps": 7}),
        ("dpmpp", {"steps": 7}),
        ("edm_sde", {"steps": 7}),
        ("euler", {"steps": 7}),
        ("few_step", {"times": (1.0,)}),
        ("few_step", {"times": (1.0, 0.7, 0.2)}),
        ("few_step", {"times": (1.0, 0.7, 0.2), "stochastic": False}),
        ("heun", {"steps": 1}),
        ("heun", {"steps": 7}),
        ("pndm", {"steps": 7}),
        ("unipc", {"steps": 7}),
    ],
    "weightings": [
        (name, {})
        for name in (
            "dreamfusion", "edm", "flow", "min_snr", "paper", "prolificdreamer", "released", "snr", "uniform"
        )
    ],
    "datasets": [
        ("cifar10", {}),
        ("class-labels", {"classes": 10}),
        ("digits", {}),
        ("digits", {"split": "test"}),
        ("gmm", {"classes": 5}),
        ("huggingface", {}),
        ("images", {}),
        ("latents", {}),
        ("lmdb", {}),
        ("pairs", {}),
        ("prompts", {"texts": ["a llama"]}),
        ("shapes", {"size": 8}),
        ("webdataset", {}),
    ],
    "rewards": [("digits-confidence", {}), ("digits-ink", {})],
    "metrics": [
        ("clip-score", {}),                                # needs weights: tests/metrics
        ("diversity", {"extractor": "tiny", "size": 16}),
        ("fd", {"extractor": "tiny", "allow_small": True}),
        ("fd-digits", {}),
        ("fid", {}),                                       # needs weights: tests/metrics
        ("inception-score", {"extractor": "tiny"}),
        ("kid", {"extractor": "tiny", "subsets": 5, "subset_size": 20}),
        ("modes", {}),
        ("patch-fid", {"extractor": "tiny", "allow_small": True}),
        ("precision-recall", {"extractor": "tiny"}),
    ],
    "extractors": [("digits", {}), ("inception-clean", {}), ("inception-edm", {}), ("tiny", {})],
    "converters": [("edm", {}), ("edm-student", {}), ("sd-student", {})],
    "students": [(n, {}) for n in ("sdxl-1step", "sdxl-4step", "sdxl-4step-lora")],
    "exporters": [(n, {}) for n in ("comfyui", "diffusers", "lora", "onnx", "safetensors", "torch-export")],
    "pretraining": [("digits-classifier", {}), ("digits-teacher", {}), ("sd-tiny-digits", {"vae_steps": 0})],
}  # fmt: skip


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_registered_name_has_a_case(kind):
    ours = {plugin.name for plugin in registry.describe(kind) if plugin.distribution == "dmd2cli"}
    assert ours == {name for name, _ in CASES[kind]}


def cases(kind):
    name = lambda case: "-".join([case[0], *(f"{k}={v}" for k, v in case[1].items())])          # noqa: E731
    return pytest.mark.parametrize("plugin", [pytest.param(case, id=name(case)) for case in CASES[kind]])


def made(kind, plugin):
    name, options = plugin
    return registry.load(kind, name)(**options)


PIPELINES = {"sd15": tiny_pipelines.sd15, "sdxl": tiny_pipelines.sdxl, "diffusers": tiny_pipelines.sd3}


@cases("teachers")
def test_teacher(plugin, tmp_path):
    name, options = plugin
    if name in PIPELINES:
        PIPELINES[name](tmp_path / "pipe")
        options = {**options, "model": str(tmp_path / "pipe")}
    check_teacher(made("teachers", (name, options)))


@cases("losses")
def test_loss_on_a_toy_and_on_a_learned_teacher(plugin):
    if plugin[0] != "reward":                                      # a toy has no images to reward
        check_loss(made("losses", plugin))
    check_loss(made("losses", plugin), made("teachers", ("digits", {})))


@cases("samplers")
def test_sampler(plugin):
    check_sampler(made("samplers", plugin))


@cases("weightings")
def test_weighting(plugin):
    check_weighting(registry.load("weightings", plugin[0]))


@cases("datasets")
def test_dataset(plugin, tmp_path):
    if plugin[0] in image_files.SETS:
        check_dataset(made("datasets", (plugin[0], {"path": str(image_files.SETS[plugin[0]](tmp_path))})))
        return
    teacher = ("gmm", {"classes": 5, "pretrain_steps": 0}) if plugin[0] == "gmm" else ("digits", {})
    if plugin[0] == "pairs":
        recipe = load("digits", ["sampler={use: ddim, steps: 2}"])
        make(maker(recipe, torch.device("cpu"), 0, None), tmp_path, range(5), 3)
        plugin = ("pairs", {"path": str(tmp_path)})
    if plugin[0] == "latents":
        path = encoders.lmdb_of_latents(tmp_path / "l", torch.randn(3, 4, 8, 8), ["a"] * 3)
        plugin = ("latents", {"path": str(path)})
    alone = plugin[0] in ("latents", "prompts", "shapes")
    check_dataset(made("datasets", plugin), None if alone else made("teachers", teacher))


@cases("rewards")
def test_reward(plugin):
    check_reward(made("rewards", plugin), made("teachers", ("digits", {})))


PICTURES = {
    "fd-digits": lambda: (to_uint8(images()[0][:200]), images()[1][:200].tolist()),
    "modes": lambda: (dots(mixture().draw(200, torch.Generator().manual_seed(0))[0], pixels(mixture())), [None] * 200),
}


@cases("metrics")
def test_metric(plugin, tmp_path):
    name, options = plugin
    if name in ("fid", "clip-score"):
        pytest.skip("its published network needs weights")
    pictures = PICTURES.get(name, PICTURES["fd-digits"])()
    if name not in PICTURES:
        save_singles(to_uint8(images()[0][200:300]), tmp_path)
        options = {**options, "reference": str(tmp_path)} if name not in ("inception-score", "diversity") else options
    check_metric(lambda: made("metrics", (name, options)), *pictures)


@cases("extractors")
def test_extractor(plugin):
    if plugin[0].startswith("inception"):
        pytest.skip("a published network needs weights")
    check_extractor(lambda: made("extractors", plugin), to_uint8(images()[0][:20]))


SLOW = pytest.mark.slow                                            # tests/e2e/test_commands.py exports two steps


@cases("exporters")
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(["student.times=[1.0]"], marks=SLOW),
        pytest.param(["student.times=[1.0, 0.5]"], marks=SLOW),
        ["student.times=[1.0, 0.5]", "student.sampler=ode"],
        ["student.guidance={min: 1, max: 5}"],
    ],
    ids=lambda changes: "-".join(changes),
)
def test_exporter(plugin, changes, tmp_path):
    if plugin[0] not in ("safetensors", "torch-export"):
        pytest.skip("for Stable Diffusion alone: tests/export")
    recipe = load("digits", ["run.batch=4", *changes])
    job(recipe, torch.device("cpu")).publish(tmp_path / "run", 0)
    check_exporter(registry.load("exporters", plugin[0]), load_student(tmp_path / "run"), tmp_path / "out")


@cases("pretraining")
def test_a_task_has_a_loss_that_is_finite_teaches_its_network_and_draws_from_its_rng_alone(plugin):
    task, (x, labels) = made("pretraining", plugin), images()
    task.network.eval()

    def loss():
        return task.loss(task.network, x[:8], labels[:8].tolist(), Rng(0, 0).at(slice(0, 8), 8))

    value = loss()
    assert value.shape == () and value.isfinite() and value > 0
    torch.manual_seed(1)
    assert loss().equal(value)
    value.backward()
    assert any(p.grad is not None and p.grad.any() for p in task.network.parameters())
    assert all(isinstance(number, float) for number in task.score(task.network).values())
