"""One currency: the table that turns what a network predicts, F, into the clean sample x_hat.

    x_hat = c_skip x_t + c_out F(c_in x_t, c_noise(t), c)

A parametrisation is a function (alpha, sigma) -> (c_skip, c_out, c_in). Everything else a family has of its
own is c_noise, the clock its network was trained with, and that is the teacher's private line.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Coefficients = tuple[Tensor, Tensor, Tensor]
Parametrization = Callable[[Tensor, Tensor], Coefficients]


def eps(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """F = eps, the unit noise (Ho et al. 2020). Undefined at alpha = 0."""
    return 1 / alpha, -sigma / alpha, torch.ones_like(alpha)


def v(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """F = alpha eps - sigma x, the velocity (Salimans & Ho 2022, App. D)."""
    norm = alpha**2 + sigma**2
    return alpha / norm, -sigma / norm, torch.ones_like(alpha)


def flow(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """F = eps - x, the velocity of straight paths (Liu et al. 2022)."""
    norm = alpha + sigma
    return 1 / norm, -sigma / norm, torch.ones_like(alpha)


def edm(sigma_data: float) -> Parametrization:
    """EDM preconditioning in general (alpha, sigma) (Karras et al. 2022, Table 1, where alpha = 1)."""

    def coefficients(alpha: Tensor, sigma: Tensor) -> Coefficients:
        variance = (alpha * sigma_data) ** 2 + sigma**2
        return alpha * sigma_data**2 / variance, sigma * sigma_data / variance.sqrt(), variance.rsqrt()

    return coefficients
