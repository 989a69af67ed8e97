"""diversity: how far apart images of one prompt are, by LPIPS ([DMD2] Table 3, after Sauer et al. 2024)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dmd2_plugins.metrics.precision import full_float32
from dmd2cli import registry
from dmd2cli.cache import sha256
from dmd2cli.errors import UserError, suggest
from dmd2cli.features import Space, space
from dmd2cli.losses.perceptual import BACKBONES, Backbone, backbone, lpips_net
from dmd2cli.protocols import Raw
from dmd2cli.views import stretched

LPIPS = "lpips-"
"""Before the name of a backbone."""
BYTES = 2**32
"""Of images that wait for others of their prompt, 4 GiB."""


class Apart(Protocol):
    """A distance between images."""

    @property
    def name(self) -> str:
        """Says which."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """For a protocol. JSON values."""

    def __call__(self, images: UInt8[Tensor, "k 3 h w"]) -> Float[Tensor, " pairs"]:
        """Of all pairs of k images, in the order of itertools.combinations."""


class ByPrompt:
    """The mean over prompts of the mean distance over all pairs of its per_prompt images; higher is more varied.

    Images are compared with the next ones of the same prompt, whatever lies between; an incomplete set at the end does
    not count. extractor: lpips-vgg, lpips-alex, lpips-squeeze, or any feature space, where the distance is 1 - cosine.
    weights: its file. size: what images are resized to first.
    """

    any_size = True

    def __init__(
        self,
        per_prompt: int = 4,
        extractor: str = f"{LPIPS}vgg",
        weights: str | None = None,
        size: int = 512,
        device: str = "auto",
    ) -> None:
        if per_prompt < 2:
            raise UserError(f"diversity: per_prompt must be at least 2, got {per_prompt}: one image makes no pair")
        if size < 1:
            raise UserError(f"diversity: size must be at least 1, got {size}")
        self.per_prompt, self.view = per_prompt, stretched(size)
        self.distance = _distance(extractor, weights, device)
        self.name = f"diversity/{self.distance.name}"
        self.waiting, self.bytes = defaultdict[Raw, list[Tensor]](list), 0
        self.found: list[float] = []

    @property
    def protocol(self) -> Mapping[str, Any]:
        pairs = self.per_prompt * (self.per_prompt - 1) // 2
        return {
            "direction": "higher is more varied",
            "images": f"{self.per_prompt} of each prompt, all {pairs} pairs, mean over prompts",
            "resize": self.view.words,
            **self.distance.facts,
        }

    def check(self, n: int) -> None:
        """Raise UserError if not even one prompt can have all its images."""
        if n < self.per_prompt:
            raise UserError(f"{self.name}: {n} images are too few; it needs {self.per_prompt} of a prompt (-n)")

    def update(self, images: UInt8[Tensor, "b 3 h w"], conditions: Sequence[Raw]) -> None:
        for image, condition in zip(images, conditions, strict=True):
            self.waiting[condition].append(image.clone())
            self.bytes += image.nbytes
            if len(self.waiting[condition]) == self.per_prompt:
                self._measure(self.waiting.pop(condition))
        if self.bytes > BYTES:
            what, k = f"{len(self.waiting):,} prompts lack images", self.per_prompt
            raise UserError(f"{self.name}: {what}; draw them with --per-prompt {k}, or sort them by prompt")

    def _measure(self, images: Sequence[Tensor]) -> None:
        self.bytes -= sum(image.nbytes for image in images)
        seen = torch.cat([self.view(image[None]) for image in images])
        self.found.append(self.distance(seen).double().mean().item())

    def compute(self) -> Mapping[str, float]:
        """"value", its standard error over prompts, and how many of them there are."""
        if not self.found:
            some, k = max(map(len, self.waiting.values()), default=0), self.per_prompt
            raise UserError(f"{self.name}: needs {k} images of a prompt, there are {some}; draw them: --per-prompt {k}")
        found = torch.tensor(self.found, dtype=torch.float64)
        error = found.std(correction=1).item() / len(found) ** 0.5 if len(found) > 1 else 0.0
        return {"value": found.mean().item(), "standard_error": error, "prompts": len(found)}

    def real(self, n: int, seed: int) -> Mapping[str, float]:
        """Nothing: real images are one of each caption."""
        return {}


@dataclass(frozen=True, eq=False)
class Lpips:
    """LPIPS on a backbone (Zhang et al. 2018, Eq. 1)."""

    on: Backbone
    network: Any
    device: torch.device
    weights: str
    """SHA-256 of the backbone's file."""

    @property
    def name(self) -> str:
        return f"{LPIPS}{self.on.net}"

    @property
    def facts(self) -> dict[str, Any]:
        words = f"LPIPS 0.1, {self.on.title}, images in [-1, 1]"
        return {"distance": words, "precision": "float32, TF32 off", "weights": f"sha256 {self.weights}"}

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "k 3 h w"]) -> Float[Tensor, " pairs"]:
        """Every image goes through the backbone once."""
        x = images.to(self.device).float() / 127.5 - 1
        with full_float32():
            layers = self.network.net(self.network.scaling_layer(x))
            units = [F.normalize(layer, dim=1, eps=1e-10) for layer in layers]
            return torch.stack([self._pair(units, i, j) for i, j in combinations(range(len(x)), 2)]).cpu()

    def _pair(self, units: Sequence[Tensor], i: int, j: int) -> Float[Tensor, ""]:
        linear: Sequence[nn.Module] = self.network.lins
        gaps = ((unit[i : i + 1] - unit[j : j + 1]) ** 2 for unit in units)
        return torch.stack([layer(gap).mean() for layer, gap in zip(linear, gaps, strict=True)]).sum()


@dataclass(frozen=True, eq=False)
class InSpace:
    """1 - cosine of the vectors of a feature space: for comparison with itself alone."""

    space: Space

    @property
    def name(self) -> str:
        return self.space.extractor.name

    @property
    def facts(self) -> dict[str, Any]:
        own = {k: v for k, v in self.space.extractor.protocol.items() if k != "resize"}
        return {"distance": f"1 - cosine in {self.name}; no LPIPS", **own}

    def __call__(self, images: UInt8[Tensor, "k 3 h w"]) -> Float[Tensor, " pairs"]:
        units = F.normalize(self.space(images).vectors.double(), dim=1)
        cosines = units @ units.T
        return torch.stack([1 - cosines[i, j] for i, j in combinations(range(len(images)), 2)]).cpu()


def _distance(extractor: str, weights: str | None, device: str) -> Apart:
    """By name. Raises UserError for an unknown one, or if its weights are not there."""
    nets = {f"{LPIPS}{name}": on for name, on in BACKBONES.items()}
    if extractor not in nets:
        if extractor not in registry.names("extractors"):
            raise UserError(
                f"diversity: no extractor {extractor!r}{suggest(extractor, [*nets, *registry.names('extractors')])}"
            )
        return InSpace(space(extractor, weights, device))
    on = nets[extractor]
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    try:
        path = backbone(on, weights)
        return Lpips(on, lpips_net(on, weights, where), where, sha256(path))
    except UserError as err:
        raise UserError(f"diversity: {err}") from err
