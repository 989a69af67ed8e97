"""inception-edm: the FID Inception of 2015 as a plain module, fed as EDM's script feeds it.

The network is the one in NVIDIA's inception-2015-12-05.pkl, which EDM's fid.py opens; that file is a pickle with code
in it and is not read here. torch-fidelity publishes the same weights, converted from the same TensorFlow graph, as
a file of tensors, and the module for them.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from dmd2_plugins.metrics.precision import full_float32
from dmd2_plugins.metrics.published import Published, read_state
from dmd2cli.cache import sha256
from dmd2cli.errors import UserError
from dmd2cli.features import Features

PUBLISHED = Published(
    file="weights-inception-2015-12-05-6726825d.pth",
    size=95_628_359,
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    publisher="torch-fidelity",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
)
"""pytorch-fid publishes the same bytes as pt_inception-2015-12-05-6726825d.pth."""


class InceptionEdm(nn.Module):
    """Images of any size -> 2048 features, and 1008 logits without bias.

    weights: a file of torch-fidelity's state dict, .pth or .safetensors; None for the one in the cache. Of another
    file than the published one the name says so, because numbers in that space are no FID.
    """

    dims = 2048

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        path = PUBLISHED.find(weights, "inception-edm")
        self.sha256 = sha256(path)
        self.network = _network(read_state(path, PUBLISHED), path)
        self.name = "inception-edm" if self.sha256 == PUBLISHED.sha256 else f"inception-edm:{self.sha256[:8]}"
        self.fingerprint = f"inception-edm-1:{self.sha256}"

    @property
    def protocol(self) -> Mapping[str, Any]:
        return {
            "network": "Inception of 2015-12-05 (torch-fidelity), 2048-d pool before the classifier",
            "resize": "uint8 at its own size to 299 x 299, bilinear as in TensorFlow 1 (no antialias), in float32",
            "scale": "(x - 128) / 128",
            "precision": "float32, TF32 off",
            "weights": f"sha256 {self.sha256}",
        }

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> Features:
        with full_float32():
            vectors, logits = self.network(images)
        return Features(vectors, logits)


def _network(state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """torch-fidelity's module. Its constructor opens a file without care, so it gets one that was written here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                        # of torchvision, about things that are not used here
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    clean = io.BytesIO()
    torch.save({name: value.float() if value.is_floating_point() else value for name, value in state.items()}, clean)
    clean.seek(0)
    try:
        return FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], clean)
    except RuntimeError as err:
        why = str(err).splitlines()[1 if "\n" in str(err) else 0].strip()
        raise UserError(f"{path}: not the weights of the FID Inception ({why[:160]}); {PUBLISHED.advice}") from err
