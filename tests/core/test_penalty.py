"""R1 and its approximation against what they stand for."""

import torch

from dmd2cli.core.penalty import approximate_r1, r1


def test_r1_of_a_linear_discriminator_is_the_square_of_its_slope():
    x, slope = torch.randn(5, 3, requires_grad=True), torch.tensor([1.0, -2.0, 0.5])
    assert torch.allclose(r1((x @ slope)[:, None], x), slope.square().sum())


def test_r1_averages_the_logits_of_a_sample_before_it_takes_the_gradient():
    x = torch.randn(4, 2, requires_grad=True)
    logits = torch.stack([x[:, 0] * 4, x[:, 1] * 6], dim=1)
    assert torch.allclose(r1(logits, x), torch.tensor(4.0 + 9.0))


def test_r1_has_a_gradient_for_the_discriminator():
    slope, x = torch.tensor([2.0], requires_grad=True), torch.randn(3, 1, requires_grad=True)
    r1((x * slope), x).backward()
    assert torch.allclose(slope.grad, torch.tensor([4.0]))


def test_approximate_r1_is_r1_in_expectation_for_small_noise():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 6, generator=generator).double().expand(200_000, 6).requires_grad_()
    discriminator = lambda x: torch.tanh(x @ torch.linspace(-1, 1, 6).double())[:, None]       # noqa: E731
    std, noise = 1e-3, torch.randn(200_000, 6, generator=generator).double()
    found = approximate_r1(discriminator(x), discriminator(x + std * noise), std)
    assert torch.allclose(found, r1(discriminator(x), x), rtol=0.02)


def test_approximate_r1_of_a_discriminator_that_ignores_x_is_zero():
    assert approximate_r1(torch.ones(3, 2), torch.ones(3, 2), 0.1) == 0
