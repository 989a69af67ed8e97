"""Is a denoiser told the noise level that it sees, and is its prediction read as what it is?

Two numbers at one noise level, for x_t = alpha x + sigma eps of clean x and a prediction x_hat:

    error = E|x - x_hat|^2 / E|x - x_lin|^2        x_lin: the best scalar linear prediction (Wiener)
    slope = E (x - x_hat).r / E |r|^2,             r = x_t / alpha - x_hat, the noise that was taken away

E[x | x_t] errs less than x_lin, and its error is orthogonal to every function of x_t (the projection theorem), r among
them: error < 1 and slope = 0. A network whose output is read with the wrong parametrisation errs more than x_lin. One
that is told another sigma takes a share k of the noise away, not all or too much: slope = 1 - 1 / k, below 0 for k < 1.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def linear(
    x_t: Float[Tensor, b *d], alpha: Float[Tensor, b *one], sigma: Float[Tensor, b *one], mean: Tensor, var: Tensor
) -> Float[Tensor, b *d]:
    """The best prediction mean + g (x_t - alpha mean) of x with that mean and variance, both scalars."""
    gain = alpha * var / (alpha**2 * var + sigma**2)
    return mean + gain * (x_t - alpha * mean)


def error(
    x: Float[Tensor, b *d],
    x_t: Float[Tensor, b *d],
    x_hat: Float[Tensor, b *d],
    alpha: Float[Tensor, b *one],
    sigma: Float[Tensor, b *one],
) -> Float[Tensor, ""]:
    """Squared error of x_hat over that of the linear prediction; the mean and variance are those of all of x."""
    best = linear(x_t, alpha, sigma, x.mean(), x.var())
    return (x - x_hat).square().mean() / (x - best).square().mean()


def slope(
    x: Float[Tensor, b *d], x_t: Float[Tensor, b *d], x_hat: Float[Tensor, b *d], alpha: Float[Tensor, b *one]
) -> Float[Tensor, ""]:
    """Regression of the error on the noise that was taken away: 0 for E[x | x_t]. alpha above 0."""
    removed = x_t / alpha - x_hat
    return ((x - x_hat) * removed).sum() / removed.square().sum()
