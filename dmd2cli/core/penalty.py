"""Gradient penalties of a discriminator on real samples, and their estimate without a second backward pass."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def r1(logits: Float[Tensor, "b n"], x: Float[Tensor, b *d]) -> Float[Tensor, ""]:
    """Mean squared norm of the logit's gradient in the real sample (Mescheder et al. 2018, Eq. 9, without gamma / 2).

    x: with requires_grad, and logits computed from it; several logits per sample are averaged first.
    """
    (grad,) = torch.autograd.grad(logits.mean(1).sum(), x, create_graph=True)
    return grad.flatten(1).square().sum(1).mean()


def approximate_r1(logits: Float[Tensor, "b n"], near: Float[Tensor, "b n"], std: float) -> Float[Tensor, ""]:
    """The same in expectation to first order in std, from logits at x and at x + std * unit normal noise.

    (D(x + std n) - D(x))^2 / std^2, after APT (Lin et al. 2025, Sec. 3.3), which leaves std^2 in its weight. Both
    sides must be diffused to the same noise level with the same noise: D may differ through x alone.
    """
    return ((near - logits).mean(1) / std).square().mean()
