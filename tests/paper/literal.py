"""The equations of [DMD] arXiv 2311.18828 and [DMD2] arXiv 2405.14867 in float64 NumPy, one sample at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def eq3(x: Array, eps: Array, alpha: float, sigma: float) -> Array:
    """q(x_t | x) = N(alpha x, sigma^2 I)."""
    return alpha * x + sigma * eps


def eq4(x_t: Array, mu: Array, alpha: float, sigma: float) -> Array:
    """s_real = -(x_t - alpha mu_real) / sigma^2; Eq. 5 is the same with mu_fake."""
    return -(x_t - alpha * mu) / sigma**2


def eq6(mu_fake: list[Array], x: list[Array], weight: list[float]) -> float:
    """Weighted ||mu_fake - x||^2, mean over batch and dimensions."""
    return float(np.mean([w * np.mean((m - y) ** 2) for m, y, w in zip(mu_fake, x, weight, strict=True)]))


def eq7(x_t: Array, mu_real: Array, mu_fake: Array, alpha: float, sigma: float, weight: float) -> Array:
    """w_t alpha_t (s_fake - s_real)."""
    return weight * alpha * (eq4(x_t, mu_fake, alpha, sigma) - eq4(x_t, mu_real, alpha, sigma))


def eq8(x: Array, mu_real: Array, alpha: float, sigma: float) -> float:
    """w_t = sigma^2 / alpha * C S / ||mu_real - x||_1, with C S the number of entries of one sample."""
    return sigma**2 / alpha * x.size / float(np.abs(mu_real - x).sum())


def algorithm_2(x: Array, mu_real: Array, mu_fake: Array) -> Array:
    """grad = (mu_fake - mu_real) / mean|x - mu_real|."""
    return (mu_fake - mu_real) / np.mean(np.abs(x - mu_real))


def minus_log_d(logit: float) -> float:
    """-log D for D = 1 / (1 + exp(-logit))."""
    return -float(np.log(1 / (1 + np.exp(-logit))))
