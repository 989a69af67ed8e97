"""Distances between two sets of features: Frechet distance, k-NN precision and recall."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float
from torch import Tensor

ENTRIES = 2**26
"""Distances held at once, 256 MiB of float32: 50,000 against 50,000 would be 10 GB."""


def distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Squared Frechet distance of Gaussians fitted to two feature sets (Heusel et al. 2017, Eq. 6), in float64."""
    return gaussian_distance(*moments(a), *moments(b))


def moments(features: Float[Tensor, "n d"]) -> tuple[np.ndarray, np.ndarray]:
    """(mean, unbiased covariance) in float64."""
    x = features.double().cpu().numpy()
    return x.mean(0), np.cov(x, rowvar=False)


def gaussian_distance(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """|mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^1/2).

    The trace of the matrix root is the sum of the roots of the eigenvalues of cov_a cov_b, which are those of
    the symmetric A^1/2 cov_b A^1/2: real and not negative, unlike the output of a general matrix root.
    """
    values, vectors = scipy.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = scipy.linalg.eigvalsh(root @ cov_b @ root)
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(cross.clip(0)).sum())


def precision_recall(fake: Float[Tensor, "n d"], real: Float[Tensor, "m d"], k: int) -> tuple[float, float]:
    """Shares of fakes inside the real manifold and of reals inside the fake one (Kynkaanniemi et al. 2019, Eq. 2)."""
    return _inside(fake, real, k), _inside(real, fake, k)


def _inside(points: Tensor, manifold: Tensor, k: int) -> float:
    """Share of points within the k-th neighbour radius of at least one point of the manifold."""
    rows = max(1, ENTRIES // len(manifold))
    near = [torch.cdist(part, manifold).kthvalue(k + 1, dim=1).values for part in torch.split(manifold, rows)]
    radius = torch.cat(near)                                                        # the nearest is the point itself
    inside = [(torch.cdist(part, manifold) <= radius).any(1) for part in torch.split(points, rows)]
    return torch.cat(inside).double().mean().item()
