"""A teacher that is what its configuration says passes; of one that is not, the wrong part is named."""

import json
import math
from dataclasses import replace

import pytest
from oracles import KARRAS, oracle
from torch import nn

from dmd2cli.core.noise import Karras
from dmd2cli.engine.preflight.candidates import with_

RIGHT = [("edm", "edm"), ("edm", "eps"), ("sd", "eps"), ("sd", "v"), ("flow", "flow"), ("flow-3", "v")]
TABLES = {"scaled_linear betas": "sd", "linear betas": "sd-linear", "linear betas of DDPM": "ddpm"}


@pytest.mark.parametrize(("schedule", "row"), RIGHT)
def test_the_right_reading_is_found_right_in_every_family(around, schedule, row):
    found = around(oracle(schedule, row), "sampler.steps=4")
    own, *others = found.fits
    assert found.verdict == "ready" and own.error < 1.02 and abs(own.slope) < 0.05
    assert len(others) > 8 and all(fit.mean > 0.999 * own.mean for fit in others)


MISREAD = [("eps", "v"), ("v", "eps"), ("x0", "eps"), ("flow", "v")]


@pytest.mark.parametrize(("row", "read"), MISREAD)
def test_an_output_that_is_read_as_another_is_named(wrong, row, read):
    told = f"teacher.prediction={row}" if row != "x0" else "the teacher's output: x0"
    assert wrong(oracle("sd", row, read=read)) == ("prediction", told)


@pytest.mark.parametrize("read", ["eps", "v"])
def test_an_edm_network_that_is_read_as_another_is_named_with_its_sigma_data(wrong, read):
    rule, change = wrong(oracle("edm", "edm", read=read))
    assert rule == "prediction" and change.startswith("the teacher's output: edm(0.7")


TOLD = [("edm", 2.0, 0.5), ("edm", 0.5, 2.0), ("flow", 2.0, 0.5), ("flow", 0.25, 4.0)]


@pytest.mark.parametrize(("family", "told", "answer"), TOLD)
def test_a_network_that_is_told_another_noise_level_is_named_with_the_factor(wrong, family, told, answer):
    assert wrong(oracle(family, family, told=told)) == ("noise-level", f"what the network is told: clock x{answer:g}")


def test_sigma_in_other_units_is_named_with_the_factor(wrong):
    found = oracle("edm", "edm")
    twice = replace(found, schedule=Karras(2 * KARRAS.sigma_min, 2 * KARRAS.sigma_max))
    assert wrong(twice)[0] == "schedule" and wrong(twice)[1].endswith("the schedule of its network")


@pytest.mark.parametrize(
    ("trained", "configured"),
    [
        ("scaled_linear betas", "sd-linear"),
        ("linear betas", "sd"),
        ("linear betas", "ddpm"),
        ("linear betas of DDPM", "sd"),
    ],
)
def test_a_table_of_other_betas_is_named(wrong, trained, configured):
    rule, change = wrong(oracle(TABLES[trained], "v", configured))
    assert rule == "schedule" and change.startswith(f"the teacher's schedule: {trained}")


def test_on_samples_of_its_own_a_wrong_output_is_named_by_those_that_another_reading_draws(around):
    found = around(oracle("sd", "eps", read="v"), "sampler={use: ddim, steps: 100}", samples=128, data=())
    (one,) = found.findings
    assert not found.real and (one.rule, *one.change) == ("prediction", "teacher.prediction=eps")


def test_a_network_that_knows_nothing_is_not_called_another_parametrisation(wrong):
    found = oracle("sd", "eps")
    blind = with_(found.denoiser, backbone=Noise())
    rule, *change = wrong(replace(found, denoiser=blind))
    assert rule == "teacher-error" and not change


def test_weights_that_are_not_numbers_are_a_finding_and_still_give_json(around):
    found = oracle("sd", "eps")
    measured = around(replace(found, denoiser=with_(found.denoiser, backbone=Noise(math.nan))), samples=32, data=())
    assert measured.findings[0].rule == "teacher-error"
    json.dumps(measured.as_json(), allow_nan=False)


def test_of_a_denoiser_of_its_own_kind_error_and_slope_are_all_that_is_said(around):
    found = oracle("edm", "edm")
    exact = found.denoiser.backbone.exact
    right = around(replace(found, denoiser=exact))
    assert right.verdict == "ready" and len(right.fits) == 1 and "no Preconditioned" in right.notes[0]
    (one,) = around(replace(found, denoiser=Twice(exact))).findings
    assert one.rule in ("teacher-error", "teacher-noise")


class Noise(nn.Module):
    """A Backbone that predicts something that has nothing to do with its input."""

    def __init__(self, gain=3.0):
        super().__init__()
        self.gain = gain

    def encode(self, x, c_noise, cond):
        return (self.gain * x.flip(0).sin() + 2,)

    def decode(self, state):
        return state[0]


class Twice(nn.Module):
    """A denoiser that believes in twice the time."""

    def __init__(self, exact):
        super().__init__()
        self.exact = exact

    def forward(self, x_t, t, cond):
        return self.exact(x_t, (1.3 * t).clamp(max=1), cond)
