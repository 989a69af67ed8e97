"""The weight of the GAN at which the two gradients at the sample are equal."""

import pytest
import torch

from dmd2cli.engine.preflight.gan import balanced
from dmd2cli.recipe import load

CPU = torch.device("cpu")
SMALL = ("run.batch=16", "run.steps=2", "ttur=2")
GAN = ("losses.gan_generator.weight=0.01", "losses.gan_critic.weight=0.01", "data.real={use: gmm, layout: grid25}")
TOY = ("teacher.width=16", "teacher.pretrain_steps=0", *GAN)


def toy(*overrides, updates):
    return balanced(load("toy-grid25", [*SMALL, *TOY, *overrides]), CPU, updates)


def test_it_does_not_depend_on_the_weight_that_is_there():
    one, other = (toy(f"losses.gan_generator.weight={w}", updates=2) for w in (0.01, 9.0))
    assert one is not None and one == pytest.approx(other)


def test_it_goes_with_the_weight_of_distribution_matching():
    one, other = (toy(f"losses.distribution_matching.weight={w}", updates=1) for w in (1.0, 2.0))
    assert other == pytest.approx(2 * one, rel=0.05)


def test_a_recipe_without_a_gan_has_none_and_neither_has_one_that_leaves_it_out():
    assert balanced(load("toy-grid25", SMALL), CPU, 2) is None
    assert toy(updates=0) is None
