"""A network that puts out NaN must be seen in the loss: the guards cannot count what a term has mended."""

import math
from dataclasses import replace

import pytest
import torch
from helpers_toy import toy

from dmd2cli.core.random import Rng
from dmd2cli.losses.distribution_matching import DistributionMatching


def loss(where, nth=1, value=math.nan):
    """(loss, gradient in x) of distribution matching with one sample that a network answers with `value`."""
    run = toy("run.batch=4", "teacher.width=16", "teacher.pretrain_steps=0")
    d, (batch,) = run.distillation, run.batches(0)
    s = d.student(batch, Rng(0, 0), grad=False)
    s = replace(s, x=s.x.requires_grad_())

    def broken(network):
        return lambda x_t, t, cond: network(x_t, t, cond).index_fill(0, torch.tensor([nth]), value)

    nets = replace(d.nets, **{where: broken(getattr(d.nets, where))} if where else {})
    found = DistributionMatching()(s, nets, Rng(0, 0).at(batch.rows, batch.total))
    (grad,) = torch.autograd.grad(found, [s.x])
    return found, grad


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["real", "fake"])
def test_distribution_matching_shows_a_score_that_is_not_finite(where, value):
    found, grad = loss(where, value=value)
    assert not found.isfinite()
    assert grad.isfinite().all(1).tolist() == [True, False, True, True]


def test_it_is_finite_where_they_are():
    found, grad = loss(None)
    assert found.isfinite() and grad.isfinite().all()


def test_a_sample_that_the_teacher_gives_back_as_it_is_has_no_gradient():
    run = toy("run.batch=4", "teacher.width=16", "teacher.pretrain_steps=0")
    d, (batch,) = run.distillation, run.batches(0)
    s = d.student(batch, Rng(0, 0), grad=False)
    s = replace(s, x=s.x.requires_grad_())
    nets = replace(d.nets, real=lambda x_t, t, cond: s.x.detach(), fake=lambda x_t, t, cond: s.x.detach())
    found = DistributionMatching()(s, nets, Rng(0, 0).at(batch.rows, batch.total))      # 0 / 0
    (grad,) = torch.autograd.grad(found, [s.x])
    assert found == 0 and not grad.any()
