"""The integer noise levels of the release: 20...980 for distribution matching, 0...999 for critic and GAN."""

import pytest
import torch

from dmd2cli.core.noise import Discrete, Karras
from dmd2cli.core.random import Rng
from dmd2cli.core.weighting import snr
from dmd2cli.losses.denoising import Denoising
from dmd2cli.losses.distribution_matching import DistributionMatching
from dmd2cli.losses.gan import GanCritic, GanGenerator
from dmd2cli.losses.joint_critic import JointCritic
from dmd2cli.protocols import Nets, Sample
from dmd2cli.recipe import load

ROWS = 20_000
"""Enough that every one of 1,000 levels is drawn (the chance that one is missed is 2e-6)."""


class Clock:
    """A denoiser that keeps the times it was asked for."""

    def __init__(self):
        self.times = []

    def __call__(self, x_t, t, cond):
        self.times.append(t)
        return x_t / 2

    def features(self, x_t, t, cond):
        return self(x_t, t, cond)

    def joint(self, x_t, t, cond, n):
        return self(x_t, t, cond)[:n], x_t


def index(schedule, t):
    """Level of a time in a table of 1,000, which must be one of them."""
    if isinstance(schedule, Discrete):
        return schedule.index(t)
    exact = 999 * t.double()
    assert (exact - exact.round()).abs().max() < 1e-4
    return exact.round().long()


def drawn(term, schedule, bins=1000):
    """All levels at which a term asks the trained network."""
    x = torch.zeros(ROWS, 1)
    fake = Clock()
    nets = Nets(Clock(), fake, torch.nn.Linear(1, 1), None, schedule, snr, bins=bins)
    s = Sample(x.clone().requires_grad_(), slice(0, ROWS), ROWS, {}, {}, x + 1, {})
    term(s, nets, Rng(0, 0).at(slice(0, ROWS), ROWS))
    return index(schedule, torch.cat(fake.times)).unique().tolist()


def released(name):
    """A term as the preset sets it."""
    from dmd2cli import registry

    recipe = load("digits", ["preset=dmd2-release"])
    assert recipe.bins == 1000
    return registry.load("losses", name)(**recipe.losses[name].options)


both_tables = pytest.mark.parametrize("schedule", [Karras(), Discrete.scaled_linear()], ids=["karras", "ddpm"])


@both_tables
def test_the_release_matches_distributions_at_the_levels_20_to_980(schedule):
    assert drawn(released("distribution_matching"), schedule) == list(range(20, 981))


@both_tables
@pytest.mark.parametrize("name", ["denoising", "gan_generator", "gan_critic"])
def test_the_release_trains_critic_and_gan_at_the_levels_0_to_999(schedule, name):
    assert drawn(released(name), schedule) == list(range(1000))


@both_tables
def test_every_term_draws_levels_of_the_table_when_there_are_bins(schedule):
    for term in (DistributionMatching(), Denoising(), GanGenerator(), GanCritic(), JointCritic()):
        assert len(drawn(term, schedule)) in (961, 1000)


def test_levels_are_equally_likely():
    nets = Nets(None, None, None, None, Karras(), snr, bins=10)
    t = nets.times(Rng(0, 0), "t", torch.zeros(100_000, 1), 0.2, 0.8)
    counts = torch.bincount((9 * t).round().long(), minlength=10)
    assert counts[:2].sum() == counts[9:].sum() == 0
    assert (counts[2:9] / 100_000 - 1 / 7).abs().max() < 0.01


def test_a_level_of_the_karras_table_has_the_sigma_of_the_release():
    t = Karras().bin(torch.tensor([0, 20, 980, 999]), 1000)
    assert torch.allclose(Karras()(t)[1], torch.tensor([0.002, 0.003232, 72.05, 80.0]).double(), rtol=1e-3)


def test_a_level_of_a_ddpm_table_is_its_timestep():
    table = Discrete.scaled_linear()
    assert table.index(table.bin(torch.arange(1000), 1000)).tolist() == list(range(1000))


def test_without_bins_times_are_continuous():
    nets = Nets(None, None, None, None, Karras(), snr)
    assert len(nets.times(Rng(0, 0), "t", torch.zeros(1000, 1)).unique()) > 990
