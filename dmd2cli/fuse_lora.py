"""LoRAs added to the weights of a model for good, layer by layer.

A layer's new weight is W + s alpha / r B A (Hu et al. 2021, Eq. 3), with the alpha and the rank r of that layer and the
strength s that the user gives. Where there are magnitudes m (DoRA: Liu et al. 2024, Eq. 5), each row of the sum gets
the length that they say. The sum is computed here and written into the weights: no adapter of peft, diffusers or
transformers has to be put into the model for it, and no version check of theirs stands in the way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmd2cli.errors import UserError

OTHER_BASE = "was it trained on another base model?"


@dataclass(frozen=True)
class LayerUpdate:
    """Factors of one layer: down A (r, in, ...), up B (out, r, ...), and what else the file has of it."""

    down: Tensor
    up: Tensor
    alpha: float
    """Divided by the rank, it is the strength that the update was trained with."""
    bias: Tensor | None = None
    magnitude: Tensor | None = None
    """The lengths that DoRA gives the rows of the sum: (out,) or (out, 1, ...), or its columns: (1, in, ...)."""

    def fits(self, weight: Tensor) -> bool:
        """Compare the inputs, outputs and kernel of the factors with those of a layer's weight."""
        down, up = self.down.flatten(1), self.up.flatten(1)
        shape = (up.shape[0], down.shape[1], up.shape[1])
        if weight.ndim < 2 or shape != (weight.shape[0], math.prod(weight.shape[1:]), self.down.shape[0]):
            return False
        return self.magnitude is None or self.magnitude.numel() == weight.shape[self._axis_of_lengths(weight)]

    def _axis_of_lengths(self, weight: Tensor) -> int:
        """Find the axis of a weight along which the magnitudes lie: 0 for rows, 1 for columns."""
        assert self.magnitude is not None, "of a DoRA"
        return 0 if self.magnitude.shape[0] == weight.shape[0] else 1

    def apply(self, layer: nn.Module, scale: float) -> None:
        """Add the update to a layer's weight, in place; computed in float32 and rounded once."""
        weight: Any = layer.weight
        strength = scale * self.alpha / len(self.down)
        product = self.up.flatten(1).float() @ self.down.flatten(1).float()
        updated = weight.data.float() + strength * product.reshape(weight.shape)
        if self.magnitude is not None:
            others = [axis for axis in range(weight.ndim) if axis != self._axis_of_lengths(weight)]
            lengths = torch.linalg.vector_norm(updated, dim=others, keepdim=True)
            updated *= self.magnitude.float().reshape(lengths.shape) / lengths
        weight.data.copy_(updated)
        if self.bias is not None:
            bias: Any = layer.bias
            bias.data += (strength * self.bias.float()).to(bias.dtype)


@dataclass(frozen=True)
class LoraFile:
    """A LoRA that was read: updates by part of the pipeline (unet, text_encoder, ...) and by layer."""

    path: Path
    parts: Mapping[str, Mapping[str, LayerUpdate]]

    def fuse(self, module: nn.Module, part: str, scale: float = 1.0) -> None:
        """Add the updates of a part to its module, in place; nothing is changed if one of them does not fit.

        Raises UserError naming the first layer that the module lacks, or has in another shape.
        """
        modules = dict(module.named_modules())
        fitting = []
        for name, update in self.parts.get(part, {}).items():
            spellings = (name, f"text_model.{name}", name.removeprefix("text_model."))   # of transformers 4 and 5
            layer: Any = next((modules[known] for known in spellings if known in modules), None)
            weight = getattr(layer, "weight", None)
            if weight is None or not update.fits(weight):
                has = f"has {tuple(weight.shape)} there" if weight is not None else "has no such layer"
                shapes = f"{tuple(update.down.shape)}, {tuple(update.up.shape)}"
                raise UserError(f"{self.path}: {part}.{name} {shapes} does not fit: the {part} {has}; {OTHER_BASE}")
            if update.bias is not None and layer.bias is None:
                raise UserError(f"{self.path}: {part}.{name} has a bias, and the layer has none; {OTHER_BASE}")
            fitting.append((update, layer))
        with torch.no_grad():
            for update, layer in fitting:
                update.apply(layer, scale)
