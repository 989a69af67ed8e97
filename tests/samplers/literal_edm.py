"""EDM's Algorithms 1 and 2 (Karras et al. 2022), line by line in float64 NumPy, with the mixture they sample."""

from __future__ import annotations

import numpy as np


def sigmas(steps: int, low: float, high: float, rho: float = 7.0) -> np.ndarray:
    """EDM Eq. 5, with the final 0."""
    i = np.arange(steps)
    falling = (high ** (1 / rho) + i / (steps - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return np.append(falling, 0.0)


def denoiser(means: np.ndarray, std: float):
    """D(x; sigma) of an equally weighted mixture, alpha = 1."""

    def d(x: np.ndarray, sigma: float) -> np.ndarray:
        variance, out = std**2 + sigma**2, np.empty_like(x)
        for i, point in enumerate(x):
            energy = -((point - means) ** 2).sum(1) / (2 * variance)
            posterior = np.exp(energy - energy.max())
            posterior /= posterior.sum()
            out[i] = (posterior[:, None] * (means + std**2 / variance * (point - means))).sum(0)
        return out

    return d


def algorithm_1(d, x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Deterministic Heun; x ~ N(0, t[0]^2)."""
    for i in range(len(t) - 1):
        slope = (x - d(x, t[i])) / t[i]
        x_next = x + (t[i + 1] - t[i]) * slope
        if t[i + 1] != 0:
            slope_next = (x_next - d(x_next, t[i + 1])) / t[i + 1]
            x_next = x + (t[i + 1] - t[i]) * (slope / 2 + slope_next / 2)
        x = x_next
    return x


def algorithm_2(d, x, t, eps, churn, noise, t_min, t_max) -> np.ndarray:
    """Heun with churn; eps: one unit normal per step."""
    steps = len(t) - 1
    for i in range(steps):
        gamma = min(churn / steps, np.sqrt(2) - 1) if t_min <= t[i] <= t_max else 0.0
        t_hat = t[i] + gamma * t[i]
        x_hat = x + np.sqrt(t_hat**2 - t[i] ** 2) * noise * eps[i]
        slope = (x_hat - d(x_hat, t_hat)) / t_hat
        x = x_hat + (t[i + 1] - t_hat) * slope
        if t[i + 1] != 0:
            slope_next = (x - d(x, t[i + 1])) / t[i + 1]
            x = x_hat + (t[i + 1] - t_hat) * (slope / 2 + slope_next / 2)
    return x
