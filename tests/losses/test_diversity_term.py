"""The diversity term against its literal: zero where the spread is that of real data, and a push where it is not."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from dmd2_plugins.digits.teacher import teacher

from dmd2cli import registry
from dmd2cli.core.denoiser import SCALE
from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError
from dmd2cli.losses.diversity import Diversity
from dmd2cli.protocols import Sample
from dmd2cli.testing import check_loss

SHAPE = (2, 3, 3)


def gaussian(b, seed, scale=1.0):
    return scale * torch.randn(b, *SHAPE, generator=torch.Generator().manual_seed(seed))


def one_hot(labels):
    return {"label": torch.eye(5)[torch.tensor(labels)]}


def sample(labels, real_labels, scale=0.5):
    x, real = gaussian(len(labels), 0, scale), gaussian(len(real_labels), 1)
    cond = one_hot(labels)
    return Sample(x.requires_grad_(), slice(0, len(x)), len(x), cond, cond, real, one_hot(real_labels))


def unconditional(b, scale=0.5):
    return replace(sample([0] * b, [0] * b, scale), cond={}, null={}, real_cond={})


def value(s, **options):
    return Diversity(**options)(s, None, Rng(0, 0))


def spread(x, labels, label):
    rows = [row for row, own in zip(x.detach().double().numpy(), labels, strict=True) if own == label]
    return np.mean([np.sqrt(np.mean((a - b) ** 2)) for a, b in combinations(rows, 2)])


@pytest.mark.parametrize("share", [1.0, 0.8, 2.0])
def test_it_is_the_squared_shortfall_of_the_spread_within_conditions(share):
    labels, real_labels = [0, 1, 0, 1, 2, 0, 3, 3], [1, 1, 0, 2, 2, 0, 4, 0, 3]
    s, both = sample(labels, real_labels), (0, 1)                   # of 2, 3 and 4 a side has one sample or none
    own, real = (
        sum(spread(x, given, label) for label in both) for x, given in ((s.x, labels), (s.real, real_labels))
    )
    assert value(s, share=share).item() == pytest.approx((share - own / real) ** 2, rel=1e-5)


def test_without_conditions_all_samples_are_compared():
    s = unconditional(6)
    literal = 1 - spread(s.x, [0] * 6, 0) / spread(s.real, [0] * 6, 0)
    assert value(s).item() == pytest.approx(literal**2, rel=1e-5)
    assert value(replace(s, cond={SCALE: torch.rand(6, 1)}, real_cond={SCALE: torch.rand(6, 1)})).equal(value(s))


def test_conditions_are_told_apart_by_all_of_their_parts_but_the_guidance_scale():
    s, scale = sample([0, 0, 1, 1], [0, 0, 1, 1]), {SCALE: torch.rand(4, 1)}
    assert value(replace(s, cond={**s.cond, **scale}, real_cond={**s.real_cond, **scale})).equal(value(s))
    token = {"token": torch.tensor([0, 1, 2, 3])}
    assert value(replace(s, cond={**s.cond, **token}, real_cond={**s.real_cond, **token})) == 0


def test_it_pushes_apart_and_its_step_widens_the_spread():
    s = sample([0, 0, 0, 1, 1, 1], [0, 1] * 3)
    value(s).backward()
    moved = s.x.detach() - 10 * s.x.grad
    assert s.x.grad.flatten(1).any(1).all()
    assert all(spread(moved, [0, 0, 0, 1, 1, 1], k) > spread(s.x, [0, 0, 0, 1, 1, 1], k) for k in (0, 1))
    assert value(replace(s, x=moved)) < value(s)


def test_it_never_pushes_beyond_the_real_spread():
    s = sample([0, 0, 0, 1, 1, 1], [0, 1] * 3, scale=1.5)
    loss = value(s)
    loss.backward()
    assert loss == 0 and not s.x.grad.any()


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 1, 2]])
def test_where_no_condition_has_a_pair_on_both_sides_it_is_zero_with_a_gradient_of_zero(labels):
    s = sample(labels, [1, 1, 2, 2])
    loss = value(s)
    loss.backward()
    assert loss == 0 and s.x.grad is not None and not s.x.grad.any()


def test_samples_that_are_all_the_same_give_the_largest_value_and_no_nan():
    s = unconditional(4)
    x = s.x.detach()[:1].expand(4, -1, -1, -1).clone().requires_grad_()
    loss = value(replace(s, x=x))
    loss.backward()
    assert loss == 1 and x.grad.isfinite().all()


def test_real_data_that_is_all_the_same_asks_for_nothing():
    s = unconditional(4)
    assert value(replace(s, real=torch.zeros_like(s.real))) == 0


def test_the_order_of_the_samples_does_not_matter():
    s = sample([0, 1, 0, 1, 0], [0, 0, 1, 1, 0])
    turned = replace(s, x=s.x.flip(0), cond={"label": s.cond["label"].flip(0)})
    assert value(turned).item() == pytest.approx(value(s).item(), rel=1e-5)


def test_a_micro_batch_of_one_and_a_share_of_nothing_are_the_users_errors():
    with pytest.raises(UserError, match=r"raise run\.micro_batch"):
        value(sample([0], [0, 0]))
    with pytest.raises(UserError, match="share 0: must be positive"):
        Diversity(share=0.0)


def test_it_keeps_the_protocol_of_a_pairwise_term():
    check_loss(Diversity())
    check_loss(Diversity(), teacher())
    check_loss(Diversity(share=3.0), registry.load("teachers", "gmm")(layout="pair", classes=2, pretrain_steps=0))
