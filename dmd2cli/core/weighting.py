"""Weights: of the denoising loss ([DMD] Eq. 6) and of the distribution-matching gradient ([DMD] Eq. 7).

A denoising weight is a function (alpha, sigma) -> w that multiplies the squared error *in x_hat*. That is the
one currency: eps-MSE is w = snr, flow-MSE is w = 1 / sigma^2, EDM's loss is w = snr + 1 / sigma_data^2.

A DM weight is a function (x, x_real, alpha, sigma) -> w_t of Eq. 7, per sample, shaped (b, 1, ...).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Weighting = Callable[[Tensor, Tensor], Tensor]
DMWeighting = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def uniform(alpha: Tensor, sigma: Tensor) -> Tensor:
    """w = 1: plain MSE in x_hat."""
    return torch.ones_like(alpha)


def snr(alpha: Tensor, sigma: Tensor) -> Tensor:
    """w = alpha^2 / sigma^2: equals eps-MSE (Stable Diffusion's training loss, [DMD] Alg. 3)."""
    return (alpha / sigma) ** 2


def flow(alpha: Tensor, sigma: Tensor) -> Tensor:
    """w = 1 / sigma^2: equals velocity MSE on straight paths, where alpha + sigma = 1."""
    return 1 / sigma**2


def edm(alpha: Tensor, sigma: Tensor, sigma_data: float = 0.5) -> Tensor:
    """w = snr + 1 / sigma_data^2 (EDM Table 1; "SNR + 1/0.5^2", [DMD] Alg. 3)."""
    return snr(alpha, sigma) + 1 / sigma_data**2


def min_snr(alpha: Tensor, sigma: Tensor, gamma: float = 5.0) -> Tensor:
    """w = min(snr, gamma) (Hang et al. 2023, Sec. 3.4, for x_hat prediction)."""
    return snr(alpha, sigma).clamp(max=gamma)


def mean_abs(x: Float[Tensor, b *d]) -> Float[Tensor, b *ones]:
    """Mean of |x| over everything but the batch: ||x||_1 / (C S) of [DMD] Eq. 8, shaped (b, 1, ...)."""
    return x.abs().flatten(1).mean(1).view(-1, *[1] * (x.ndim - 1))


def paper(x: Tensor, x_real: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """[DMD] Eq. 8 as printed: sigma^2 / alpha over the mean absolute error of the teacher's x_hat."""
    return sigma**2 / alpha / mean_abs(x_real - x)


def released(x: Tensor, x_real: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """[DMD] Alg. 2 and the released code: Eq. 8 with one more 1 / alpha, so that alpha cancels in Eq. 7."""
    return sigma**2 / alpha**2 / mean_abs(x_real - x)


def dreamfusion(x: Tensor, x_real: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """w_t = sigma / alpha (DreamFusion; [DMD] Table 2, right, row 1: FID 3.60 on CIFAR-10)."""
    return sigma / alpha


def prolificdreamer(x: Tensor, x_real: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """w_t = sigma^3 / alpha (ProlificDreamer; [DMD] Table 2, right, row 2: FID 3.71 on CIFAR-10)."""
    return sigma**3 / alpha

