"""critic.per_call: every call of the student has a critic of its own."""

import pytest
import torch

from dmd2cli.core.random import Rng
from dmd2cli.engine.distill import job
from dmd2cli.errors import UserError
from dmd2cli.recipe import load
from dmd2cli.recipe_stages import staged

CPU = torch.device("cpu")
SMALL = ["student.times=[1.0,0.5,0.25]", "run.batch=8", "run.steps=40"]


def made(*overrides):
    return job(load("recipes/digits.yaml", [*SMALL, "critic.per_call=true", *overrides]), CPU)


def weights(player):
    return torch.cat([p.detach().flatten() for p in player.parameters]).clone()


def test_only_the_critic_of_the_trained_call_moves():
    work = made("ttur=100")
    d = work.distillation
    assert len(d.critics) == 3 and weights(d.critics[0]).equal(weights(d.critics[2]))
    seen = set()
    for step in range(1, 9):
        before = [weights(critic) for critic in d.critics]
        call = d.student(work.loader(step, d.teacher)[0], Rng(d.seed, step), grad=False).call
        work.step(step)
        moved = [not b.equal(weights(critic)) for b, critic in zip(before, d.critics, strict=True)]
        assert moved == [i == call for i in range(3)]
        seen.add(call)
    assert seen == {0, 1, 2}


def test_the_generator_is_judged_by_the_critic_of_its_call_and_moves_none():
    work = made()
    d = work.distillation
    for call in range(3):
        nets = d.nets_for(call)
        assert nets.fake is d.critics[call].module["fake"] and nets.head is d.critics[call].module["head"]
        assert nets.generator is d.nets.generator and nets.real is d.nets.real
    before = [weights(critic) for critic in d.critics]
    d.turns = type(d.turns)(ttur=1, alternate=True)                   # the generator's turn alone
    work.step(0)
    assert all(b.equal(weights(critic)) for b, critic in zip(before, d.critics, strict=True))


def test_a_continued_run_is_the_same_as_one_in_one_go():
    whole, first, second = made(), made(), made()
    for step in range(6):
        whole.step(step)
    for step in range(3):
        first.step(step)
    state = first.state()
    assert set(state["players"]) == {"generator", "critic", "critic-1", "critic-2"}
    second.load_state(state)
    for step in range(3, 6):
        second.step(step)
    for a, b in zip(whole.players().values(), second.players().values(), strict=True):
        assert weights(a).equal(weights(b))


def test_one_step_is_the_same_with_and_without():
    one, plain = made("student.times=[1.0]"), made("student.times=[1.0]", "critic.per_call=false")
    for step in range(6):
        one.step(step)
        plain.step(step)
    assert weights(one.distillation.generator).equal(weights(plain.distillation.generator))


def test_the_lag_is_measured_and_changes_nothing():
    plain, measured = made(), made("critic.lag_every=2")
    for step in range(4):
        plain.step(step)
        found = measured.step(step)
        assert ("critic/lag" in found) == (step % 2 == 1)
    for a, b in zip(plain.players().values(), measured.players().values(), strict=True):
        assert weights(a).equal(weights(b))


def test_it_belongs_to_the_whole_run():
    stages = 'stages=[{"until": 10}, {"critic": {"per_call": false}}]'
    with pytest.raises(UserError, match=r"stages\.1\.critic\.per_call: belongs to the whole run"):
        staged(load("recipes/digits.yaml", [stages]))
