"""A preconditioned backbone: its paths agree, and guidance is linear in two calls."""

import pytest
import torch
from dmd2_plugins.toy.gmm import teacher

from dmd2cli.core.denoiser import Guidance, bind, guided, without_scale


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


def branches(t):
    """Two predictions and their times."""
    x_null, x_cond = torch.randn(2, len(t), 3, 4, generator=torch.Generator().manual_seed(2))
    return x_null, x_cond, torch.as_tensor(t)


def test_a_scale_per_sample_guides_each_by_its_own():
    x_null, x_cond, t = branches([0.5, 0.5, 0.5])
    found = Guidance(torch.tensor([1.0, 2.0, 5.0]))(x_null, x_cond, t)
    for i, scale in enumerate((1.0, 2.0, 5.0)):
        assert torch.allclose(found[i], Guidance(scale)(x_null, x_cond, t)[i])


def test_outside_its_interval_there_is_no_guidance():
    x_null, x_cond, t = branches([0.1, 0.2, 0.5, 0.8, 0.9])
    found = Guidance(4.0, interval=(0.2, 0.8))(x_null, x_cond, t)
    assert torch.allclose(found[[0, 4]], x_cond[[0, 4]])
    assert torch.allclose(found[1:4], Guidance(4.0)(x_null, x_cond, t)[1:4])


def test_rescaling_brings_the_spread_of_a_sample_back_to_the_conditional_one():
    x_null, x_cond, t = branches([0.5, 0.5])
    plain, whole = Guidance(6.0)(x_null, x_cond, t), Guidance(6.0, rescale=1.0)(x_null, x_cond, t)
    assert torch.allclose(whole.flatten(1).std(1), x_cond.flatten(1).std(1))
    assert torch.allclose(Guidance(6.0, rescale=0.25)(x_null, x_cond, t), 0.75 * plain + 0.25 * whole, atol=1e-6)


def test_a_teacher_is_not_told_the_scale_of_its_student():
    cond = {"label": torch.zeros(1), "guidance": torch.ones(1)}
    assert without_scale(cond) == {"label": cond["label"]}


def test_features_at_depths_end_with_the_bottleneck():
    from dmd2_plugins.digits.teacher import teacher as digits

    found = digits()
    x, t, cond = torch.randn(2, 1, 8, 8), torch.rand(2), found.encode([1, 2])[0]
    taps = found.denoiser.taps(x, t, cond, range(4))
    assert [tuple(h.shape[1:]) for h in taps] == [(16, 8, 8), (32, 4, 4), (64, 2, 2), (64, 2, 2)]
    assert taps[3].equal(found.denoiser.features(x, t, cond))
    with pytest.raises(IndexError):
        found.denoiser.taps(x, t, cond, [4])


def test_guidance_without_an_interval_acts_at_the_times_above_1_that_churn_asks_for():
    x_null, x_cond, t = branches([1.0, 1.2])
    assert torch.allclose(Guidance(4.0)(x_null, x_cond, t), torch.lerp(x_null, x_cond, 4.0))
