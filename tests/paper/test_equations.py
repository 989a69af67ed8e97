"""core.objective against the printed equations, in float64, on every schedule."""

import inspect
import re

import numpy as np
import pytest
import torch
from helpers_toy import SCHEDULES
from literal import algorithm_2, eq3, eq4, eq6, eq7, eq8, minus_log_d

from dmd2cli import registry
from dmd2cli.core import objective
from dmd2cli.core.noise import diffuse, scales
from dmd2cli.core.weighting import paper, released

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
N, SHAPE = 16, (3, 4, 4)


class Draw:
    """Tensors for N times in [0.02, 0.98], and the same as lists of float64 arrays."""

    def __init__(self, schedule):
        g = torch.Generator().manual_seed(0)
        self.x, self.eps, self.x_real, self.x_fake = torch.randn(4, N, *SHAPE, generator=g, dtype=torch.float64)
        self.t = torch.linspace(0.02, 0.98, N, dtype=torch.float64)
        self.alpha, self.sigma = scales(schedule, self.t, self.x)
        self.x_t = diffuse(self.x, self.t, schedule, self.eps)

    def each(self, function, *names):
        """The literal function on every sample, stacked."""
        columns = [[v.item() if v.numel() == 1 else v.numpy() for v in getattr(self, name)] for name in names]
        return torch.from_numpy(np.stack([np.asarray(function(*row)) for row in zip(*columns, strict=True)]))


@pytest.fixture
def draw(schedule):
    return Draw(schedule)


def close(found, literal, tolerance=1e-11):
    return (found - literal).abs().max() <= tolerance * literal.abs().max()


@every_schedule
def test_eq3_diffusion(draw):
    assert close(draw.x_t, draw.each(eq3, "x", "eps", "alpha", "sigma"))


@every_schedule
@pytest.mark.parametrize("mu", ["x_real", "x_fake"])
def test_eq4_real_score_and_eq5_fake_score(draw, mu):
    found = objective.score(draw.x_t, getattr(draw, mu), draw.alpha, draw.sigma)
    assert close(found, draw.each(eq4, "x_t", mu, "alpha", "sigma"))


def test_score_of_the_true_clean_sample_points_against_the_noise():
    d = Draw(SCHEDULES["sd"])
    assert close(objective.score(d.x_t, d.x, d.alpha, d.sigma), -d.eps / d.sigma, 1e-9)


@every_schedule
def test_eq6_denoising(draw):
    weight = (draw.alpha / draw.sigma) ** 2
    literal = eq6(list(draw.x_fake.numpy()), list(draw.x.numpy()), weight.flatten().tolist())
    assert objective.denoising(draw.x_fake, draw.x, weight).item() == pytest.approx(literal, rel=1e-12)


@every_schedule
def test_eq7_gradient(draw):
    draw.weight = 0.5 + draw.t.view(-1, 1, 1, 1)
    found = objective.dm_gradient(draw.x_t, draw.x_real, draw.x_fake, draw.alpha, draw.sigma, draw.weight)
    assert close(found, draw.each(eq7, "x_t", "x_real", "x_fake", "alpha", "sigma", "weight"))


@every_schedule
def test_eq8_weight_as_printed(draw):
    found = paper(draw.x, draw.x_real, draw.alpha, draw.sigma)
    assert found.shape == (N, 1, 1, 1)
    assert torch.allclose(found.flatten(), draw.each(eq8, "x", "x_real", "alpha", "sigma"), rtol=1e-12, atol=0)


def gradient(draw, weight):
    return objective.dm_gradient(
        draw.x_t, draw.x_real, draw.x_fake, draw.alpha, draw.sigma, weight(draw.x, draw.x_real, draw.alpha, draw.sigma)
    )


@every_schedule
def test_eq7_with_released_weight_is_algorithm_2(draw):
    literal = draw.each(algorithm_2, "x", "x_real", "x_fake")
    assert close(gradient(draw, released), literal, 1e-9)


@every_schedule
def test_eq7_with_printed_eq8_is_alpha_times_algorithm_2(draw):
    literal = draw.each(algorithm_2, "x", "x_real", "x_fake")
    assert close(gradient(draw, paper), draw.alpha * literal, 1e-9)


@every_schedule
@pytest.mark.parametrize(
    "name, literal",
    [
        ("released", lambda x, real, a, s: s**2 / a**2 / np.mean(np.abs(real - x))),
        ("paper", lambda x, real, a, s: s**2 / a / np.mean(np.abs(real - x))),
        ("dreamfusion", lambda x, real, a, s: s / a),
        ("prolificdreamer", lambda x, real, a, s: s**3 / a),
    ],
)
def test_the_four_distribution_matching_weights(draw, name, literal):
    found = registry.load("weightings", name)(draw.x, draw.x_real, draw.alpha, draw.sigma)
    expected = draw.each(literal, "x", "x_real", "alpha", "sigma").view(-1, 1, 1, 1)
    assert torch.allclose(found, expected, rtol=1e-12, atol=0)


def test_algorithm_2_ends_in_a_loss_whose_gradient_is_grad_over_numel():
    x, grad = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    x.requires_grad_()
    objective.with_gradient(x, grad).backward()
    assert torch.allclose(x.grad, grad / x.numel(), rtol=1e-12)


LOGITS = torch.tensor([[-6.0], [-0.3], [0.0], [0.7], [8.0]], dtype=torch.float64)


def test_gan_generator_is_minus_log_d_of_fakes():
    literal = np.mean([minus_log_d(v) for v in LOGITS.flatten().tolist()])
    assert objective.gan_generator(LOGITS).item() == pytest.approx(literal, rel=1e-12)


def test_gan_critic_is_minus_log_of_1_minus_d_of_fakes_and_minus_log_d_of_reals():
    fake, real = LOGITS, LOGITS.flip(0) / 2
    literal = np.mean([minus_log_d(-v) for v in fake.flatten().tolist()])      # 1 - D(l) = D(-l)
    literal += np.mean([minus_log_d(v) for v in real.flatten().tolist()])
    assert objective.gan_critic(fake, real).item() == pytest.approx(literal, rel=1e-12)


def test_gan_losses_are_finite_where_the_literal_overflows():
    sure = torch.tensor([[1e4]])
    assert objective.gan_generator(-sure).item() == 1e4 and objective.gan_critic(sure, -sure).item() == 2e4


def test_every_function_of_the_objective_cites_its_equation():
    functions = [f for _, f in inspect.getmembers(objective, inspect.isfunction) if f.__module__ == objective.__name__]
    citation = re.compile(r"\[DMD2?\] (Eq|Alg|Sec)\. \d|\(\w[\w &.]* \d{4}\)")
    assert len(functions) >= 7
    assert not [f.__name__ for f in functions if not citation.search(f.__doc__ or "")]
