"""Mean and covariance of feature vectors as they come: float64, mergeable, no large numbers subtracted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class Moments:
    """Running mean (d,) and scatter sum (x - mean)(x - mean)^T (d, d), merged as in Chan, Golub, LeVeque (1983).

    The sums of x and x x^T that are often used instead lose the covariance where means are large beside it. Parts of
    a set, on several devices or ranks, merge into what the whole set gives.
    """

    def __init__(self, dims: int, device: torch.device | str = "cpu") -> None:
        device = torch.device(device)
        device = torch.device("cpu") if device.type == "mps" else device        # mps has no float64
        self.n = 0
        self.mean = torch.zeros(dims, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(dims, dims, dtype=torch.float64, device=device)

    def update(self, x: Float[Tensor, "b d"]) -> None:
        """Take b vectors, of any float type."""
        if len(x) == 0:
            return
        x = x.detach().to(self.mean.device).double()
        mean = x.mean(0)
        centred = x - mean
        self._add(len(x), mean, centred.T @ centred)

    def merge(self, other: Moments) -> None:
        """Take all that another one has seen."""
        if other.n:
            self._add(other.n, other.mean.to(self.mean.device), other.scatter.to(self.mean.device))

    def _add(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        total, shift = self.n + n, mean - self.mean
        self.scatter += scatter
        self.scatter.addr_(shift, shift, alpha=self.n * n / total)
        self.mean += shift * (n / total)
        self.n = total

    def covariance(self) -> Float[Tensor, "d d"]:
        """The unbiased one, divided by n - 1. Needs two vectors."""
        assert self.n > 1, "a covariance needs two vectors"
        return self.scatter / (self.n - 1)

    def numpy(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean, covariance) for frechet.gaussian_distance."""
        return self.mean.cpu().numpy(), self.covariance().cpu().numpy()

    def state(self) -> dict[str, Tensor]:
        """{"n", "mean", "scatter"} on the CPU, to be sent between ranks or saved."""
        return {"n": torch.tensor(self.n), "mean": self.mean.cpu(), "scatter": self.scatter.cpu()}

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Moments:
        """The one whose state() this is."""
        found = cls(len(state["mean"]))
        found.n, found.mean, found.scatter = int(state["n"]), state["mean"].double(), state["scatter"].double()
        return found
