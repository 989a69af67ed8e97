"""The step on the real engine: who moves when, on which samples, after how many calls ([DMD2] Sec. 4)."""

from itertools import pairwise

import pytest
import torch
from helpers_toy import SMALL, toy

from dmd2cli.core.random import Rng

FOUR = "student.times=[1.0, 0.75, 0.5, 0.25]"


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()]).clone()


def moved(before, after):
    return not torch.equal(before, after)


@pytest.mark.parametrize("times", ["student.times=[1.0]", FOUR])
def test_the_teacher_never_moves(times):
    run = toy(*SMALL, times, "ttur=2")
    before = weights(run.distillation.teacher.denoiser)
    for step in range(6):
        run.step(step)
    assert not moved(before, weights(run.distillation.teacher.denoiser))
    assert all(p.grad is None for p in run.distillation.teacher.denoiser.parameters())


@pytest.mark.parametrize("ttur", [1, 2, 5])
def test_the_generator_moves_every_ttur_th_step_and_the_critic_at_each(ttur):
    run, generator, critic = toy(*SMALL, f"ttur={ttur}"), [], []
    for step in range(3 * ttur):
        generator.append(weights(run.distillation.generator.module))
        critic.append(weights(run.distillation.critic.module))
        run.step(step)
    generator.append(weights(run.distillation.generator.module))
    critic.append(weights(run.distillation.critic.module))
    assert [moved(*pair) for pair in pairwise(generator)] == ([True] + [False] * (ttur - 1)) * 3
    assert all(moved(*pair) for pair in pairwise(critic))
    assert run.distillation.generator.updates == 3 and run.distillation.critic.updates == 3 * ttur


def before_the_critic(run, step):
    """Run a step; returns (samples for the critic, critic weights and gradients) as its turn began."""
    seen, update = [], run.distillation.critic.update

    def spy(loss, batches, step, **rest):
        critic = run.distillation.critic
        seen.append((list(batches), weights(critic.module), [p.grad for p in critic.parameters]))
        return update(loss, batches, step, **rest)

    run.distillation.critic.update = spy
    run.step(step)
    run.distillation.critic.update = update
    return seen[0]


def test_a_generator_turn_leaves_the_critic_untouched():
    run = toy(*SMALL)
    before = weights(run.distillation.critic.module)
    _, after, gradients = before_the_critic(run, 0)
    assert not moved(before, after) and gradients == [None] * len(gradients)


def test_a_critic_turn_leaves_no_gradient_on_the_generator():
    run = toy(*SMALL)
    run.step(1)
    assert all(p.grad is None for p in run.distillation.generator.parameters)


@pytest.mark.parametrize("times", ["student.times=[1.0]", FOUR])
@pytest.mark.parametrize("step", [0, 1])
def test_the_critic_trains_on_detached_samples_made_before_the_generator_moved(times, step):
    run = toy(*SMALL, times, "run.micro_batch=8")
    rng = Rng(run.distillation.seed, step)
    expected = [run.distillation.student(batch, rng, grad=False).x for batch in run.batches(step)]
    made, _, _ = before_the_critic(run, step)
    assert all(torch.equal(s.x, x) for s, x in zip(made, expected, strict=True))
    assert not any(s.x.requires_grad for s in made)
    moved_since = run.distillation.student(run.batches(step)[0], rng, grad=False).x
    assert torch.equal(moved_since, expected[0]) == (step == 1)                # the generator moved at step 0 alone


@pytest.mark.parametrize("micro_batch", [16, 8, 4])
@pytest.mark.parametrize("times", [(1.0,), (1.0, 0.75, 0.5, 0.25)], ids=len)
def test_the_generator_is_called_for_the_rollout_and_once_more(times, micro_batch):
    run, calls = toy(*SMALL, f"student.times={list(times)}", f"run.micro_batch={micro_batch}"), []
    run.distillation.generator.module.register_forward_hook(lambda m, inputs, out: calls.append(inputs[1][0].item()))
    rollouts = []
    for step in range(24):
        calls.clear()
        run.step(step)
        n = 16 // micro_batch
        k = len(calls) // n - 1
        assert calls == list(times[: k + 1]) * n                               # the same k in every micro-batch
        rollouts.append(k)
    assert set(rollouts) == set(range(len(times)))


def trained(micro_batch, steps=6):
    run = toy(*SMALL, f"run.micro_batch={micro_batch}", "student.times=[1.0, 0.5]", "ttur=2")
    losses = [run.step(step) for step in range(steps)]
    return weights(run.distillation.generator.module), weights(run.distillation.critic.module), losses


@pytest.mark.parametrize("micro_batch", [8, 4])
def test_micro_batches_change_training_by_rounding_alone(micro_batch):
    whole, pieces = trained(16), trained(micro_batch)
    for one, other in zip(whole[:2], pieces[:2], strict=True):
        assert (one - other).abs().max() <= 2e-5
    for one, other in zip(whole[2], pieces[2], strict=True):
        assert one.keys() == other.keys()
        assert all(torch.isclose(one[name], other[name], rtol=1e-4) for name in one)


def test_another_seed_changes_training_by_far_more_than_rounding():
    run = toy(*SMALL, "run.seed=1", "student.times=[1.0, 0.5]", "ttur=2")
    for step in range(6):
        run.step(step)
    assert (weights(run.distillation.generator.module) - trained(16)[0]).abs().max() > 1e-3


def test_generator_and_critic_start_as_copies_that_share_nothing():
    run = toy(*SMALL)
    generator, fake = run.distillation.nets.generator, run.distillation.nets.fake
    assert torch.equal(weights(generator), weights(fake))
    storages = [{p.data_ptr() for p in net.parameters()} for net in (generator, fake, run.distillation.teacher.network)]
    assert not (storages[0] & storages[1] or storages[0] & storages[2] or storages[1] & storages[2])
