"""The published implementation's outputs, for small networks of all three kinds with weights of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from dmd2_plugins.edm.config import read
from dmd2_plugins.edm.network import network
from safetensors import safe_open

from dmd2cli.core.denoiser import bind
from dmd2cli.core.random import Rng
from dmd2cli.samplers.heun import Heun

PARITY = Path(__file__).parents[3] / "shared" / "parity" / "edm"
NAMES = ("adm_cond", "ddpmpp_cond", "ncsnpp_uncond_aug")
RELATIVE = 1e-5

pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason="the parity files are not part of the repository")


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    """(denoiser with the published weights, all tensors of the file)."""
    with safe_open(PARITY / f"{request.param}.safetensors", "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        denoiser = network(read(json.loads(file.metadata()["config"]), request.param)).eval().requires_grad_(False)
    weights = {k.removeprefix("net.model."): v for k, v in found.items() if k.startswith("net.")}
    denoiser.load_state_dict({f"backbone.{k}": v for k, v in weights.items()})          # strict: names are one to one
    return denoiser, found


def cond(found, augment=True):
    names = {"label": "in.labels", "augment": "in.augment_labels"} if augment else {"label": "in.labels"}
    return {ours: found[theirs] for ours, theirs in names.items() if theirs in found}


def error(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.no_grad()
def test_denoised_is_the_published_one(case):
    denoiser, found = case
    t = denoiser.schedule.time(found["in.sigma"])
    x_hat = denoiser(found["in.x"], t, cond(found))
    for row in range(len(t)):                                                           # each noise level by itself
        assert error(x_hat[row], found["out.denoised"][row]) < RELATIVE


@torch.no_grad()
def test_heun_of_18_steps_ends_where_the_published_one_does(case):
    denoiser, found = case
    denoise = bind(denoiser, cond(found, augment=False))
    x = Heun(18)(denoise, denoiser.schedule, found["in.z"], Rng(0, 0))
    assert error(x, found["out.heun18"]) < RELATIVE


@torch.no_grad()
def test_bfloat16_is_near(case):
    denoiser, found = case
    denoiser.autocast = torch.bfloat16
    try:
        x_hat = denoiser(found["in.x"], denoiser.schedule.time(found["in.sigma"]), cond(found))
    finally:
        denoiser.autocast = None
    assert x_hat.dtype == torch.float32
    assert 1e-6 < error(x_hat, found["out.denoised"]) < 3e-2
