"""Micro-batches change when the arithmetic is done, not what is trained: the digits recipe, three steps."""

import pytest
import torch

from dmd2cli.engine.distill import job
from dmd2cli.recipe import load


def trained(micro_batch, *changes):
    """(everything logged in three steps, the weights of the generator and the critic)."""
    recipe = load("digits", ["run.batch=4", f"run.micro_batch={micro_batch}", "ttur=2", *changes])
    made = job(recipe, torch.device("cpu"))
    logged = [{k: float(v) for k, v in made.step(step).items()} for step in range(3)]
    players = (made.distillation.generator, made.distillation.critic)
    return logged, [torch.cat([p.detach().flatten() for p in player.parameters]) for player in players]


@pytest.fixture(scope="module")
def whole():
    return trained(4)


@pytest.fixture(scope="module")
def start():
    return trained(4, "student.lr=1.0e-12", "critic.lr=1.0e-12", "critic.weight_decay=0.0")[1]


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_smaller_micro_batches_are_the_same_training_up_to_the_order_of_sums(whole, start, micro_batch):
    logged, weights = trained(micro_batch)
    assert [list(step) for step in logged] == [list(step) for step in whole[0]]
    for ours, theirs in zip(logged, whole[0], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    for ours, theirs, before in zip(weights, whole[1], start, strict=True):
        assert (ours - theirs).norm() <= 1e-3 * (theirs - before).norm()


def test_another_seed_is_another_training(whole, start):
    logged, weights = trained(4, "run.seed=1")
    assert logged[0] != pytest.approx(whole[0][0], rel=1e-4)
    assert all((a - b).norm() > 0.3 * (b - c).norm() for a, b, c in zip(weights, whole[1], start, strict=True))
