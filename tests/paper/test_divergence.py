"""core.divergence: each h against its f, and all of them against what f-distill proves, on two Gaussians."""

import math

import pytest
import torch

from dmd2cli.core.divergence import DIVERGENCES, HIGH, LOW, ratio, weight

F = {
    "reverse_kl": lambda r: -r.log(),
    "softened": lambda r: (r + 1) * ((r + 1) / (2 * r)).log(),
    "jensen_shannon": lambda r: r * r.log() - (r + 1) * ((r + 1) / 2).log(),
    "hellinger": lambda r: 1 - r.sqrt(),
    "forward_kl": lambda r: r * r.log(),
}
every_divergence = pytest.mark.parametrize("name", DIVERGENCES)
X = torch.linspace(-12, 12, 20001, dtype=torch.float64)
REAL, FAKE = (0.7, 1.1), (-0.2, 1.3)


def log_density(x, mean, std):
    return -0.5 * ((x - mean) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))


def score(x, mean, std):
    return -(x - mean) / std**2


def divergence(f, mean, std):
    """D_f(real || N(mean, std^2)) by quadrature."""
    fake = log_density(X, mean, std)
    return torch.trapezoid(fake.exp() * f((log_density(X, *REAL) - fake).exp()), X)


def test_every_divergence_has_its_f_here():
    assert F.keys() == DIVERGENCES.keys()


@every_divergence
def test_h_is_r_squared_times_the_second_derivative_of_f(name):
    r = torch.logspace(-3, 3, 61, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(F[name](r).sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r)
    torch.testing.assert_close(DIVERGENCES[name](r.detach()), r.detach() ** 2 * second, rtol=1e-6, atol=0)


@every_divergence
def test_f_is_a_divergence_that_vanishes_between_equals(name):
    assert divergence(F[name], *REAL).item() == pytest.approx(0, abs=1e-9)
    assert divergence(F[name], *FAKE) > 1e-3


@every_divergence
@pytest.mark.parametrize("fake", [FAKE, (1.6, 0.95)])
def test_the_weighted_score_difference_is_the_gradient_of_the_divergence(name, fake):
    (mean, std), step = fake, 1e-4
    above, below = (divergence(F[name], mean + sign * step, std) for sign in (1, -1))
    density = log_density(X, mean, std)
    h = DIVERGENCES[name]((log_density(X, *REAL) - density).exp())
    pull = h * (score(X, mean, std) - score(X, *REAL))                         # dG / dmean = 1
    found = torch.trapezoid(density.exp() * pull, X)
    assert found.item() == pytest.approx(((above - below) / (2 * step)).item(), rel=1e-3)


def test_reverse_kl_weighs_every_sample_exactly_one():
    logits = torch.tensor([[-30.0], [0.3], [4.0]])
    assert weight("reverse_kl", logits).tolist() == [1.0, 1.0, 1.0]


@every_divergence
def test_weights_are_one_per_sample_with_mean_one(name):
    logits = 3 * torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    found = weight(name, logits)
    assert found.shape == (64,) and found.dtype == torch.float32 and (found > 0).all()
    assert found.mean().item() == pytest.approx(1, rel=1e-6)
    h = DIVERGENCES[name](ratio(logits))
    torch.testing.assert_close(found / found[0], h / h[0])


def test_the_ratio_is_that_of_a_discriminator_which_is_right():
    real, fake = torch.tensor([0.2, 0.5, 1.0]), torch.tensor([0.4, 0.1, 1.0])
    logits = torch.logit(real / (real + fake)).unsqueeze(1)
    torch.testing.assert_close(ratio(logits), real / fake)


def test_several_logits_of_a_sample_are_averaged_before_the_ratio():
    assert ratio(torch.tensor([[2.0, 4.0, -3.0], [1.0, 1.0, 1.0]])).tolist() == pytest.approx([math.e, math.e])


def test_logits_of_any_size_leave_finite_ratios_in_the_range():
    logits = torch.tensor([[-1e4], [-3.5], [0.0], [3.5], [1e4]])
    assert ratio(logits).tolist() == pytest.approx([LOW, LOW, 1, HIGH, HIGH])
    assert ratio(logits, 0.1, 10).tolist() == pytest.approx([0.1, 0.1, 1, 10, 10])
    assert all(weight(name, logits).isfinite().all() for name in DIVERGENCES)
