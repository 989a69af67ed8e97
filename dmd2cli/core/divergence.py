"""f-divergences between teacher and student: the weight that one puts on the score difference (f-distill).

    D_f(real || fake) = E_fake[f(r)],    r = p_real / p_fake,    f convex
    dD_f / dtheta     = E_fake[h(r) (s_fake - s_real) dG / dtheta],    h(r) = r^2 f''(r)

(Xu et al. 2025, arXiv 2502.15681). So every f is [DMD] Eq. 7 with one more factor h(r) per sample, and the reverse
KL of DMD is the one with h = 1. Where r is large the student misses what the teacher has: an h that grows with r
covers modes, the faster the more so, at the price of a noisier gradient; one that falls with r seeks modes.

r comes from a discriminator at the same noisy sample: one that is optimal for [DMD2] Eq. 4 has D = r / (1 + r), and
with D = sigmoid(logit) that is r = exp(logit).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

LOW, HIGH = 0.05, 20.0
"""The range of ratio(): a factor of 20 either way, so that no sample outweighs the others by more."""


def reverse_kl(r: Tensor) -> Tensor:
    """KL(fake || real), f = -log r: h = 1. Mode-seeking; the divergence of [DMD] Eq. 1."""
    return torch.ones_like(r)


def softened(r: Tensor) -> Tensor:
    """Softened reverse KL, f = (r + 1) log((r + 1) / (2 r)): h = 1 / (1 + r). Mode-seeking, the most of the five."""
    return 1 / (1 + r)


def jensen_shannon(r: Tensor) -> Tensor:
    """Twice Jensen-Shannon, f = r log r - (r + 1) log((r + 1) / 2): h = r / (1 + r). Covering, h at most 1."""
    return r / (1 + r)


def hellinger(r: Tensor) -> Tensor:
    """Squared Hellinger distance, f = 1 - sqrt(r): h = sqrt(r) / 4. Covering, less than the forward KL."""
    return r.sqrt() / 4


def forward_kl(r: Tensor) -> Tensor:
    """KL(real || fake), f = r log r: h = r. Covering, the most of the five; the gradient with the largest variance."""
    return r


DIVERGENCES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "reverse_kl": reverse_kl,
    "softened": softened,
    "jensen_shannon": jensen_shannon,
    "hellinger": hellinger,
    "forward_kl": forward_kl,
}
"""Name in a recipe -> h(r), elementwise."""


def ratio(logits: Float[Tensor, "b n"], low: float = LOW, high: float = HIGH) -> Float[Tensor, " b"]:
    """r = p_real / p_fake of each sample, from logits that are positive for real; clamped to [low, high].

    Several logits of a sample are averaged first: the geometric mean of their ratios.
    """
    return logits.mean(1).clamp(math.log(low), math.log(high)).exp()


def weight(name: str, logits: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """h(r) over its mean, so that the distribution-matching term keeps its size whatever the divergence.

    f-distill divides by the batch's mean as well; here it is that of the rows given, which are those of a
    micro-batch. Exactly 1 for reverse_kl. Raises KeyError for a name that is not in DIVERGENCES.
    """
    h = DIVERGENCES[name](ratio(logits))
    return h / h.mean()
