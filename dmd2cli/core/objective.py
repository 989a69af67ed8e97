"""The equations of DMD and DMD2, one function each, as printed.

[DMD] = arXiv 2311.18828, [DMD2] = arXiv 2405.14867. x_real and x_fake are the clean-sample predictions
mu_real(x_t, t) and mu_fake(x_t, t); alpha and sigma are shaped (b, 1, ...). docs/paper.md maps every
equation to its function, and tests/paper checks each against a float64 literal.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Batch = Float[Tensor, "b *d"]
Scale = Float[Tensor, "b *ones"]


def score(x_t: Batch, x_hat: Batch, alpha: Scale, sigma: Scale) -> Batch:
    """Score of the diffused distribution behind a denoiser, [DMD2] Eq. 1: real [DMD] Eq. 4, fake [DMD] Eq. 5."""
    return -(x_t - alpha * x_hat) / sigma**2


def denoising(x_hat: Batch, x: Batch, weight: Scale) -> Float[Tensor, ""]:
    """[DMD] Eq. 6: the critic's weighted denoising loss; weight multiplies the squared error in x_hat."""
    return (weight * (x_hat - x) ** 2).mean()


def dm_gradient(x_t: Batch, x_real: Batch, x_fake: Batch, alpha: Scale, sigma: Scale, weight: Scale) -> Batch:
    """[DMD] Eq. 7 before dG/dtheta: w_t alpha (s_fake - s_real), the gradient of KL(fake || real) in x.

    With weight = released(...) it is (x_fake - x_real) / mean|x - x_real|, [DMD] Alg. 2 and [DMD2] Eq. 2;
    with weight = paper(...) it is alpha times that. With x_fake = x_real it is zero. Undiffused: [DMD] Eq. 1 and 2.
    """
    return weight * alpha * (score(x_t, x_fake, alpha, sigma) - score(x_t, x_real, alpha, sigma))


def with_gradient(x: Batch, grad: Batch) -> Float[Tensor, ""]:
    """[DMD] Alg. 2, last line: a scalar whose gradient in x is grad / x.numel() (mean reduction)."""
    return 0.5 * F.mse_loss(x, (x - grad).detach())


def gan_generator(logits_fake: Tensor) -> Float[Tensor, ""]:
    """[DMD2] Eq. 4, the generator's part, non-saturating: E[-log D(fake)] with D = sigmoid(logits)."""
    return F.softplus(-logits_fake).mean()


def gan_critic(logits_fake: Tensor, logits_real: Tensor) -> Float[Tensor, ""]:
    """[DMD2] Eq. 4, the discriminator's part: E[-log(1 - D(fake))] + E[-log D(real)]."""
    return F.softplus(logits_fake).mean() + F.softplus(-logits_real).mean()


def guide(x_null: Batch, x_cond: Batch, scale: float | Tensor) -> Batch:
    """Classifier-free guidance (Ho & Salimans 2022): x_null + s (x_cond - x_null); linear, so equal in eps."""
    return torch.lerp(x_null, x_cond, scale)
