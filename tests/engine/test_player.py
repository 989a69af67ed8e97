"""A player: accumulation, clipping, learning rate and moving average, each against its plain definition."""

from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from dmd2cli.engine.player import Player, learning_rate
from dmd2cli.recipe import Averaged, Optimiser

RATE = Optimiser(lr=0.01)


@dataclass
class Rows:
    """A micro-batch of a regression."""

    x: torch.Tensor
    y: torch.Tensor

    def __len__(self):
        return len(self.x)


def rows(n, seed=0):
    source = torch.Generator().manual_seed(seed)
    return Rows(torch.randn(n, 3, generator=source).double(), torch.randn(n, 2, generator=source).double())


def cut(whole, *sizes):
    return [Rows(x, y) for x, y in zip(whole.x.split(sizes), whole.y.split(sizes), strict=True)]


def player(config=RATE, clip=None, steps=100):
    torch.manual_seed(0)
    return Player(nn.Linear(3, 2).double(), config, steps, clip)


def loss_of(who):
    """Two terms, each a mean over its micro-batch."""
    return lambda b: {
        "error": (who.module(b.x) - b.y).square().mean(),
        "size": 0.1 * who.module(b.x).abs().mean(),
    }


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


# -- accumulation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(4, 4), (2, 2, 2, 2), (1,) * 8, (5, 2, 1)])
def test_micro_batches_give_the_step_and_the_numbers_of_one_big_batch(sizes):
    whole, one, many = rows(8), player(), player()
    log_one = one.update(loss_of(one), [whole], step=0)
    log_many = many.update(loss_of(many), cut(whole, *sizes), step=0)
    torch.testing.assert_close(weights(many.module), weights(one.module), rtol=0, atol=1e-12)
    for name in log_one:
        torch.testing.assert_close(log_many[name], log_one[name], rtol=1e-12, atol=1e-12)


def test_one_step_is_that_of_adamw_on_the_sum_of_the_terms():
    ours, whole = player(), rows(8)
    theirs = deepcopy(ours.module)
    adam = torch.optim.AdamW(theirs.parameters(), 0.01, (0.9, 0.999), weight_decay=0.01)
    ours.update(loss_of(ours), [whole], step=0)
    ((theirs(whole.x) - whole.y).square().mean() + 0.1 * theirs(whole.x).abs().mean()).backward()
    adam.step()
    torch.testing.assert_close(weights(ours.module), weights(theirs))


def test_no_gradient_is_left_for_the_next_step():
    ours = player()
    ours.update(loss_of(ours), [rows(4)], step=0)
    assert all(p.grad is None for p in ours.parameters)


def test_a_frozen_player_collects_no_gradient_and_is_thawed_afterwards():
    ours, other = player(), player()

    def loss(batch):
        assert not any(p.requires_grad for p in other.parameters)
        return {"both": other.module(ours.module(batch.x) @ torch.ones(2, 3).double()).square().mean()}

    ours.update(loss, [rows(4)], step=0, frozen=[other])
    assert all(p.requires_grad and p.grad is None for p in other.parameters)


def test_a_frozen_player_is_thawed_even_when_the_loss_fails():
    ours, other = player(), player()
    with pytest.raises(ZeroDivisionError):
        ours.update(lambda batch: 1 / 0, [rows(4)], step=0, frozen=[other])
    assert all(p.requires_grad for p in other.parameters)


# -- clipping --------------------------------------------------------------------------------------------------


@pytest.fixture
def norm_seen():
    """The gradient norm that a player's optimiser sees in one update."""

    def norm_seen(clip):
        who, seen = player(clip=clip), []
        who.optimiser.register_step_pre_hook(
            lambda *_: seen.append(torch.cat([p.grad.flatten() for p in who.parameters]).norm().item())
        )
        return who.update(loss_of(who), [rows(8)], step=0)["gradient_norm"].item(), seen[0]

    return norm_seen


def test_a_gradient_longer_than_clip_is_scaled_to_it_and_logged_at_full_length(norm_seen):
    full, seen = norm_seen(None)
    assert seen == pytest.approx(full) and full > 0.5
    assert norm_seen(0.25) == (pytest.approx(full), pytest.approx(0.25, rel=1e-5))


def test_a_gradient_shorter_than_clip_is_left_alone(norm_seen):
    assert norm_seen(1e3)[1] == norm_seen(None)[1]


# -- learning rate ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.0), (5, 0.5), (10, 1.0), (11, 1.0), (60, 1.0), (61, 0.98), (80, 0.6), (99, 0.22), (100, 0.2)],
)
def test_the_rate_rises_over_the_warm_up_stays_and_falls_to_its_share(step, rate):
    config = Optimiser(lr=1.0, warmup_steps=10, decay_from=0.6, decay_to=0.2)
    assert learning_rate(config, step, 100) == pytest.approx(rate)


@pytest.mark.parametrize("step", [0, 50, 100])
def test_the_rate_is_constant_by_default(step):
    assert learning_rate(Optimiser(lr=0.3), step, 100) == 0.3


def test_the_rate_of_a_step_is_what_its_optimiser_uses():
    who = player(Optimiser(lr=1.0, warmup_steps=10))
    before = weights(who.module).clone()
    who.update(loss_of(who), [rows(4)], step=0)
    assert torch.equal(weights(who.module), before)
    who.update(loss_of(who), [rows(4)], step=5)
    assert who.optimiser.param_groups[0]["lr"] == 0.5 and not torch.equal(weights(who.module), before)


# -- moving average --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("halflife", "ramp"), [(40.0, None), (40.0, 0.5), (1e6, 0.1), (3.0, None)])
def test_the_moving_average_has_its_half_life_in_images_and_ramps_up(halflife, ramp):
    who = player(Averaged(lr=0.05, ema_halflife_images=halflife, ema_ramp=ramp))
    expected, seen = weights(who.module).clone(), 0
    for step in range(12):
        who.update(loss_of(who), cut(rows(8, step), 3, 5), step)
        seen += 8
        life = halflife if ramp is None else min(halflife, ramp * seen)
        keep = 0.5 ** (8 / life)
        expected = keep * expected + (1 - keep) * weights(who.module)
    raw = weights(who.module).clone()
    with who.averaged() as module:
        torch.testing.assert_close(weights(module), expected)
    assert torch.equal(raw, weights(who.module)) and not torch.equal(expected, raw)


def test_after_one_half_life_half_of_a_jump_is_left():
    who = player(Averaged(lr=1e-12, weight_decay=0.0, ema_halflife_images=64.0, ema_ramp=None))
    with torch.no_grad():
        who.module.weight.add_(1.0)
    before = who.ema["weight"].clone()
    for step in range(8):
        who.update(loss_of(who), [rows(8)], step)
    torch.testing.assert_close(who.ema["weight"] - before, torch.full_like(before, 0.5))


def test_without_a_half_life_there_is_no_moving_average():
    who = player()
    raw = weights(who.module).clone()
    with who.averaged() as module:
        assert who.ema is None and module is who.module and torch.equal(weights(module), raw)


# -- state -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_player_continued_from_its_state_moves_bit_for_bit_as_before(layout):
    def made():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 3)).to(memory_format=layout)
        return Player(net, Averaged(lr=0.01, ema_halflife_images=20.0), 100, 1.0)

    def train(who, steps):
        for step in steps:
            x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))
            who.update(lambda batch: {"loss": who.module(batch).square().mean()}, [x], step)

    straight, first, second = made(), made(), made()
    train(straight, range(7))
    train(first, range(4))
    second.load_state(first.state())
    train(second, range(4, 7))
    assert second.updates == straight.updates == 7
    assert torch.equal(weights(second.module), weights(straight.module))
    assert all(torch.equal(second.ema[name], straight.ema[name]) for name in straight.ema)
