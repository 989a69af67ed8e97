"""Isotropic Gaussian mixtures in the plane, and their exact denoiser E[x | x_t] for every noise schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dmd2cli.core.denoiser import Cond
from dmd2cli.core.noise import NoiseSchedule, exact, scales
from dmd2cli.errors import UserError, suggest


@dataclass(frozen=True)
class Mixture:
    """sum_k weights[k] N(means[k], std^2 I), its modes split in order into `classes` groups (0: unconditional)."""

    means: Float[Tensor, "k 2"]
    weights: Float[Tensor, " k"]
    std: float
    classes: int = 0

    @property
    def groups(self) -> Int[Tensor, " k"]:
        """The class of every mode."""
        return torch.arange(len(self.means)) * max(self.classes, 1) // len(self.means)

    @property
    def data_std(self) -> float:
        """Root mean square of a coordinate of x; every layout has mean zero."""
        return math.sqrt(self.std**2 + float(self.weights @ (self.means**2).mean(1)))

    def draw(self, n: int, generator: torch.Generator) -> tuple[Float[Tensor, "n 2"], Int[Tensor, " n"]]:
        """n samples and the modes they come from."""
        modes = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        return self.means[modes] + self.std * torch.randn(n, 2, generator=generator), modes


def ring(n: int) -> Float[Tensor, "n 2"]:
    """n means evenly on the unit circle."""
    angle = 2 * math.pi * torch.arange(n) / n
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def grid(side: int) -> Float[Tensor, "n 2"]:
    """side^2 means on a lattice over [-1, 1]^2, row by row."""
    line = torch.linspace(-1, 1, side)
    return torch.cartesian_prod(line, line)


LAYOUTS = {"pair": ring(2), "ring8": ring(8), "grid25": grid(5)}


def mixture(layout: str = "grid25", std: float = 0.05, classes: int = 0) -> Mixture:
    """Equally weighted modes of a named layout, neighbours 0.77 (ring8), 0.5 (grid25) or 2 (pair) apart.

    Raises UserError for an unknown layout, std <= 0, or classes that do not divide the modes.
    """
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout {layout!r}{suggest(layout, LAYOUTS)}")
    means = LAYOUTS[layout]
    if std <= 0:
        raise UserError(f"std must be above 0, got {std}")
    if classes < 0 or (classes and len(means) % classes):
        raise UserError(f"classes must be 0 or divide the {len(means)} modes of {layout}, got {classes}")
    return Mixture(means, torch.full((len(means),), 1 / len(means)), std, classes)


class Exact(nn.Module):
    """The Denoiser of a mixture in closed form: no training, no error, finite at alpha = 0 and at sigma = 0.

    cond: {"label": one-hot (b, classes)}, a row of zeros for no class; {} for an unconditional mixture.
    """

    def __init__(self, mixture: Mixture, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule, self.std = schedule, mixture.std
        self.means = nn.Parameter(mixture.means, requires_grad=False)
        self.weights = nn.Parameter(mixture.weights, requires_grad=False)
        groups = nn.functional.one_hot(mixture.groups, max(mixture.classes, 1)).float()
        self.groups = nn.Parameter(groups, requires_grad=False)               # (modes, classes)

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """sum_k r_k (m_k + g (x_t - alpha m_k)), g = alpha std^2 / (alpha^2 std^2 + sigma^2); in x_t's dtype."""
        alpha, sigma = scales(self.schedule, t, x_t)                          # (b, 1)
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        mean = self._responsibilities(x_t, alpha, sigma, cond) @ exact(self.means)
        return (mean + gain * (exact(x_t) - alpha * mean)).to(x_t.dtype)

    def features(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The posterior of the modes, (b, modes)."""
        return self._responsibilities(x_t, *scales(self.schedule, t, x_t), cond).float()

    def _responsibilities(self, x_t: Tensor, alpha: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        """r_k = p(mode k | x_t, class), (b, modes)."""
        away = exact(x_t)[:, None] - alpha[..., None] * exact(self.means)     # (b, modes, 2)
        logits = -(away**2).sum(-1) / (2 * (alpha**2 * self.std**2 + sigma**2))
        return (logits + self._prior(cond)).softmax(-1)

    def _prior(self, cond: Cond) -> Tensor:
        """log p(mode), (b, modes) or (modes,); -inf outside the class of the condition."""
        if not cond:
            return exact(self.weights).log()
        members = cond["label"] @ self.groups.T
        members = torch.where(members.any(1, keepdim=True), members, 1.0)
        return (exact(members) * exact(self.weights)).log()
