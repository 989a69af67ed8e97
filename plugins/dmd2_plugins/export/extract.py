"""A LoRA from full weights: of each layer the best approximation of low rank to what training changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dmd2_plugins.stable_diffusion.unet import TARGETS
from dmd2cli.core.noise import exact
from dmd2cli.errors import UserError

RANKS = (1, 4, 8, 16, 32, 64, 128, 256)
"""What the error is reported for, besides the rank that is written."""

LEAST = 1e-7
"""Singular values below this share of the largest are rounding."""


@dataclass(frozen=True)
class Extraction:
    """Factors and what they leave out. Errors are Frobenius norms, relative to the whole change."""

    tensors: Mapping[str, Tensor]
    """By the names that peft writes: path of the layer, lora_A or lora_B, weight."""
    by_rank: Mapping[int, float]
    """Rank -> relative error over all adapted layers."""
    by_layer: Mapping[str, float]
    """Layer -> relative error at the rank that was asked for."""
    elsewhere: float
    """Share of the whole change, squared, that is in weights that a LoRA does not have."""

    @property
    def errors(self) -> dict[str, Any]:
        """All of them, to four digits. JSON values."""
        ranks, layers = ({k: round(v, 4) for k, v in found.items()} for found in (self.by_rank, self.by_layer))
        return {"by_rank": ranks, "by_layer": layers, "elsewhere": round(self.elsewhere, 4)}


def extract(before: nn.Module, after: nn.Module, rank: int, targets: Sequence[str] = TARGETS) -> Extraction:
    """The change of all layers whose names end in targets (Eckart-Young: truncated SVD is the best in this norm).

    Factors of layers that are narrower than rank are padded with zeros, because readers assume one rank. Raises
    UserError if the weights of those layers are the same.
    """
    changes, rest = changed(before, after, targets)
    if not changes:
        raise UserError("lora: the student's weights are those of its base; train it first")
    tensors: dict[str, Tensor] = {}
    spectra: dict[str, Tensor] = {}
    for name, change in changes.items():
        a, b, spectra[name] = factors(change, rank)
        tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    wanted = sorted({*(r for r in RANKS if r <= max(map(len, spectra.values()))), rank})
    by_rank = {r: error(spectra.values(), r) for r in wanted}
    by_layer = {name: error([spectrum], rank) for name, spectrum in spectra.items()}
    whole = sum(float(s.square().sum()) for s in spectra.values()) + rest
    return Extraction(tensors, by_rank, by_layer, rest / whole)


def changed(before: nn.Module, after: nn.Module, targets: Sequence[str]) -> tuple[dict[str, Tensor], float]:
    """(layer -> change of its weight, squared change of everything else)."""
    ends, old, changes, rest = tuple(f".{name}.weight" for name in targets), before.state_dict(), {}, 0.0
    for key, value in after.state_dict().items():
        change = value.float() - old[key].to(value.device).float()
        if not change.any():
            continue
        if f".{key}".endswith(ends):
            changes[key.removesuffix(".weight")] = change
        else:
            rest += float(change.square().sum())
    return changes, rest


def factors(change: Float[Tensor, "out in *k"], rank: int) -> tuple[Tensor, Tensor, Float[Tensor, " n"]]:
    """(A, B, singular values): B A is the change, or near it; A (rank, in, *k), B (out, rank, 1, ...).

    One side's singular vectors are eigenvectors of the Gram matrix, in float64: for convolutions many times faster than
    an SVD. B A projects the change onto them, so it is as exact as they are orthogonal.
    """
    matrix = change.flatten(1)
    tall = matrix.shape[0] > matrix.shape[1]
    wide = exact(matrix.T if tall else matrix)
    squares, vectors = torch.linalg.eigh(wide @ wide.T)
    s = squares.flip(0).clamp(min=0).sqrt()
    kept = min(rank, int((s > LEAST * s[0]).sum()))
    side = vectors.flip(1)[:, :kept]
    root = s[:kept].sqrt()
    b, a = matrix.new_zeros(len(wide), rank), matrix.new_zeros(rank, wide.shape[1])
    b[:, :kept], a[:kept] = (side * root).to(b), ((side.T @ wide) / root[:, None]).to(a)
    a, b = (b.T, a.T) if tall else (a, b)
    return a.reshape(rank, *change.shape[1:]), b.reshape(-1, rank, *[1] * (change.ndim - 2)), s.float()


def error(spectra: Iterable[Tensor], rank: int) -> float:
    """Relative error of the truncation at a rank, from singular values."""
    parts = [(float(s[rank:].square().sum()), float(s.square().sum())) for s in spectra]
    return float((sum(lost for lost, _ in parts) / sum(whole for _, whole in parts)) ** 0.5)


def product(a: Float[Tensor, "r in *k"], b: Float[Tensor, "out r *one"]) -> Float[Tensor, "out in *k"]:
    """B A in the shape of the layer's weight."""
    return (b.flatten(1) @ a.flatten(1)).view(len(b), *a.shape[1:])


def apply(unet: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Add factors to the weights of a UNet, in place."""
    for key in tensors:
        if key.endswith(".lora_A.weight"):
            name = key.removesuffix(".lora_A.weight")
            weight = unet.get_parameter(f"{name}.weight")
            weight.data += product(tensors[key], tensors[f"{name}.lora_B.weight"]).to(weight)
    return unet
