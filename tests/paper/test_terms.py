"""The loss terms against the equations: what they ask of the networks, and the gradient they leave."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers_toy import SCHEDULES
from literal import algorithm_2, eq6, eq7, eq8, minus_log_d

from dmd2cli.core.noise import Karras
from dmd2cli.core.random import Rng
from dmd2cli.core.weighting import snr
from dmd2cli.errors import UserError
from dmd2cli.losses.denoising import Denoising
from dmd2cli.losses.distribution_matching import DistributionMatching
from dmd2cli.losses.gan import GanCritic, GanGenerator
from dmd2cli.losses.joint_critic import JointCritic
from dmd2cli.protocols import Nets, Sample

B, CLASSES = 8, 3
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


class Spy:
    """An arbitrary denoiser that remembers what it was asked and what it said."""

    def __init__(self, slope):
        self.slope, self.calls = slope, []

    def __call__(self, x_t, t, cond):
        x_hat = torch.sin(self.slope * x_t) + 0.1 * t.view(-1, 1, 1, 1) + cond["label"].argmax(1).view(-1, 1, 1, 1)
        self.calls.append(SimpleNamespace(x_t=x_t, t=t, cond=cond, x_hat=x_hat))
        return x_hat

    def features(self, x_t, t, cond):
        found = self(x_t, t, cond).flatten(1)
        self.calls[-1].features = found
        return found

    def joint(self, x_t, t, cond, n):
        features = self.features(x_t, t, cond)
        return self.calls[-1].x_hat[:n], features


def sample(grad=True):
    g = torch.Generator().manual_seed(3)
    x, real = torch.randn(2, B, 2, 3, 3, generator=g)
    label, other = (torch.eye(CLASSES)[torch.randint(CLASSES, (B,), generator=g)] for _ in range(2))
    cond, null = {"label": label}, {"label": torch.zeros(B, CLASSES)}
    return Sample(x.requires_grad_(grad), slice(0, B), B, cond, null, real, {"label": other})


def networks(schedule, real=None, fake=None):
    head = torch.nn.Linear(18, 1)
    return Nets(real or Spy(0.5), fake or Spy(0.9), head, None, schedule, snr)


def gradient(term, s, nets):
    """d term / d x as the step takes it, times numel: what with_gradient was given."""
    term(s, nets, Rng(0, 0)).backward()
    return s.x.grad.double().numpy() * s.x.numel()


def double(x):
    return x.detach().double().numpy()


def rows(schedule, call):
    """Per sample: (index, alpha, sigma) of a call, in float64."""
    alpha, sigma = schedule(call.t)
    return [(i, a, s) for i, (a, s) in enumerate(zip(alpha.tolist(), sigma.tolist(), strict=True))]


def agree(found, literal):
    return np.abs(found - literal).max() <= 1e-5 * np.abs(literal).max()


@every_schedule
def test_distribution_matching_leaves_the_gradient_of_eq7_and_eq8(schedule):
    s, nets = sample(), networks(schedule)
    found = gradient(DistributionMatching(weighting="paper"), s, nets)
    real, fake, x = nets.real.calls[0], nets.fake.calls[0], double(s.x)
    x_t, mu_real, mu_fake = double(fake.x_t), double(real.x_hat), double(fake.x_hat)
    literal = [
        eq7(x_t[i], mu_real[i], mu_fake[i], a, sg, eq8(x[i], mu_real[i], a, sg)) for i, a, sg in rows(schedule, fake)
    ]
    assert agree(found, np.stack(literal))


@every_schedule
def test_distribution_matching_by_default_is_algorithm_2(schedule):
    s, nets = sample(), networks(schedule)
    found = gradient(DistributionMatching(), s, nets)
    mu_real, mu_fake = double(nets.real.calls[0].x_hat), double(nets.fake.calls[0].x_hat)
    assert agree(found, np.stack([algorithm_2(*row) for row in zip(double(s.x), mu_real, mu_fake, strict=True)]))


@every_schedule
def test_both_scores_see_the_same_noisy_sample(schedule):
    s, nets = sample(), networks(schedule)
    gradient(DistributionMatching(), s, nets)
    real, fake = nets.real.calls[0], nets.fake.calls[0]
    assert torch.equal(real.x_t, fake.x_t) and torch.equal(real.t, fake.t)
    alpha, sigma = (c.view(-1, 1, 1, 1) for c in schedule(fake.t))
    eps = (fake.x_t - alpha * s.x.detach()) / sigma
    assert abs(eps.mean()) < 0.3 and abs(eps.std() - 1) < 0.3


def test_times_stay_between_t_min_and_t_max():
    s, nets = sample(), networks(Karras())
    for step in range(50):
        DistributionMatching(t_min=0.3, t_max=0.4)(s, nets, Rng(0, step))
    times = torch.cat([call.t for call in nets.fake.calls])
    assert 0.3 <= times.min() < 0.32 and 0.38 < times.max() <= 0.4


@every_schedule
def test_identical_scores_leave_exactly_no_gradient(schedule):
    s = sample()
    found = gradient(DistributionMatching(), s, networks(schedule, Spy(0.7), Spy(0.7)))
    assert not found.any()


@every_schedule
def test_guidance_acts_on_the_real_score_alone(schedule):
    s, nets = sample(), networks(schedule)
    found = gradient(DistributionMatching(guidance=3.0), s, nets)
    (real,), (fake,) = nets.real.calls, nets.fake.calls
    assert torch.equal(fake.cond["label"], s.cond["label"])                    # conditional, once
    assert {tuple(r) for r in real.cond["label"][:B].tolist()} == {(0.0,) * CLASSES}
    assert torch.equal(real.cond["label"][B:], s.cond["label"])
    null, cond = double(real.x_hat)[:B], double(real.x_hat)[B:]
    guided, mu_fake = null + 3.0 * (cond - null), double(fake.x_hat)           # mu_fake unscaled
    assert agree(found, np.stack([algorithm_2(*row) for row in zip(double(s.x), guided, mu_fake, strict=True)]))


def test_no_gradient_reaches_the_scores():
    parameter = torch.nn.Parameter(torch.tensor(0.5))
    fake = Spy(parameter)
    gradient(DistributionMatching(), sample(), networks(Karras(), fake=fake))
    assert parameter.grad is None and not fake.calls[0].x_hat.requires_grad


@every_schedule
def test_denoising_is_eq6_with_the_teachers_weight(schedule):
    s, nets = sample(grad=False), networks(schedule)
    found = Denoising()(s, nets, Rng(0, 0)).item()
    call = nets.fake.calls[0]
    weight = [(a / sg) ** 2 for _, a, sg in rows(schedule, call)]
    assert found == pytest.approx(eq6(list(double(call.x_hat)), list(double(s.x)), weight), rel=1e-5)


def test_denoising_takes_a_weight_by_name():
    s, nets = sample(grad=False), networks(Karras())
    found = Denoising("uniform")(s, nets, Rng(0, 0)).item()
    assert found == pytest.approx(eq6(list(double(nets.fake.calls[0].x_hat)), list(double(s.x)), [1.0] * B), rel=1e-5)


def test_critic_times_cover_the_whole_clock():
    s, nets = sample(grad=False), networks(Karras())
    for step in range(50):
        Denoising()(s, nets, Rng(0, step))
    times = torch.cat([call.t for call in nets.fake.calls])
    assert times.min() < 0.02 and times.max() > 0.98


def literal_logits(nets, features):
    weight, bias = double(nets.head.weight), double(nets.head.bias)
    return (double(features) @ weight.T + bias).flatten()


def test_gan_generator_is_minus_log_d_of_diffused_fakes():
    s, nets = sample(), networks(Karras())
    found = GanGenerator()(s, nets, Rng(0, 0))
    literal = np.mean([minus_log_d(v) for v in literal_logits(nets, nets.fake.calls[0].features)])
    assert found.item() == pytest.approx(literal, rel=1e-5)
    found.backward()
    assert s.x.grad.abs().sum() > 0


def test_gan_critic_tells_diffused_fakes_from_diffused_reals():
    s, nets = sample(grad=False), networks(Karras())
    found = GanCritic()(s, nets, Rng(0, 0)).item()
    (call,) = nets.fake.calls
    fake, real = np.split(literal_logits(nets, call.features), 2)
    literal = np.mean([minus_log_d(-v) for v in fake]) + np.mean([minus_log_d(v) for v in real])
    assert found == pytest.approx(literal, rel=1e-5)
    assert torch.equal(call.cond["label"], torch.cat([s.cond["label"], s.real_cond["label"]]))
    assert not torch.equal(call.t[:B], call.t[B:])                             # a noise level of its own for each


def test_gan_critic_trains_the_encoder_as_well_as_the_head():
    parameter = torch.nn.Parameter(torch.tensor(0.5))
    nets = networks(Karras(), fake=Spy(parameter))
    GanCritic()(sample(grad=False), nets, Rng(0, 0)).backward()
    assert parameter.grad.abs() > 0 and nets.head.weight.grad.abs().sum() > 0


def test_joint_critic_is_denoising_plus_the_gan_in_one_pass():
    s, nets = sample(grad=False), networks(Karras())
    found = JointCritic(gan=0.3)(s, nets, Rng(0, 0)).item()
    (call,) = nets.fake.calls
    fake, real = np.split(literal_logits(nets, call.features), 2)
    gan = np.mean([minus_log_d(-v) for v in fake]) + np.mean([minus_log_d(v) for v in real])
    weight = [(a / sg) ** 2 for _, a, sg in rows(Karras(), call)[:B]]
    assert found == pytest.approx(eq6(list(double(call.x_hat[:B])), list(double(s.x)), weight) + 0.3 * gan, rel=1e-5)


@pytest.mark.parametrize("options", [{"t_min": 0.5, "t_max": 0.5}, {"t_min": -0.1}, {"t_max": 1.1}])
def test_impossible_options_are_the_users_error(options):
    with pytest.raises(UserError):
        DistributionMatching(**options)


def test_a_denoising_weight_is_no_distribution_matching_weight():
    with pytest.raises(UserError, match="two kinds"):
        DistributionMatching(weighting="snr")
    with pytest.raises(UserError, match="two kinds"):
        Denoising("released")


@every_schedule
@pytest.mark.parametrize("term", [Denoising(), GanGenerator(), GanCritic(), JointCritic()], ids=repr)
def test_critic_and_head_see_samples_at_the_noise_level_they_are_told(schedule, term):
    s, nets = sample(grad=False), networks(schedule)
    term(s, nets, Rng(0, 0))
    (call,) = nets.fake.calls
    clean = torch.cat([s.x, s.real])[: len(call.t)]
    alpha, sigma = (c.view(-1, 1, 1, 1) for c in schedule(call.t))
    eps = (call.x_t - alpha * clean) / sigma
    assert abs(eps.mean()) < 0.3 and abs(eps.std() - 1) < 0.2
