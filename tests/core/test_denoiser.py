"""A preconditioned backbone: its paths agree, and guidance is linear in two calls."""

import pytest
import torch
from dmd2_plugins.toy.gmm import teacher

from dmd2cli.core.denoiser import bind, guided


@pytest.fixture
def net():
    return teacher(classes=5, width=16, pretrain_steps=0).network


@pytest.fixture
def inputs():
    g = torch.Generator().manual_seed(0)
    cond = {"label": torch.eye(5)[torch.randint(5, (6,), generator=g)]}
    return torch.randn(6, 2, generator=g), torch.rand(6, generator=g), cond


def test_joint_is_the_prediction_of_some_rows_and_the_features_of_all(net, inputs):
    x_t, t, cond = inputs
    x_hat, features = net.joint(x_t, t, cond, 4)
    assert torch.allclose(x_hat, net(x_t, t, cond)[:4]) and torch.allclose(features, net.features(x_t, t, cond))


def test_predictions_are_float32(net, inputs):
    net.autocast = torch.bfloat16
    x_t, t, cond = inputs
    assert net(x_t, t, cond).dtype == net.features(x_t, t, cond).dtype == torch.float32


def test_guidance_of_1_is_the_bare_denoiser(net, inputs):
    x_t, t, cond = inputs
    null = {"label": torch.zeros(6, 5)}
    assert torch.equal(guided(net, 1.0, cond, null)(x_t, t), bind(net, cond)(x_t, t))


@pytest.mark.parametrize("scale", [0.0, 2.0, 8.0])
def test_guidance_extrapolates_from_the_null_prediction(net, inputs, scale):
    x_t, t, cond = inputs
    null = {"label": torch.zeros(6, 5)}
    x_null, x_cond = net(x_t, t, null).double(), net(x_t, t, cond).double()
    literal = x_null + scale * (x_cond - x_null)
    assert torch.allclose(guided(net, scale, cond, null)(x_t, t).double(), literal, atol=1e-4)
