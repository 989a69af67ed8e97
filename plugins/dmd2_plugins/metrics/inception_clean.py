"""inception-clean: clean-fid's features (Parmar et al. 2022), of a TorchScript file whose hash is checked first."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from dmd2_plugins.metrics.precision import full_float32
from dmd2_plugins.metrics.published import Published
from dmd2cli.errors import UserError
from dmd2cli.features import Features

PUBLISHED = Published(
    file="inception-2015-12-05.pt",
    size=95_607_719,
    sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    publisher="NVIDIA (the one that clean-fid loads)",
    url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
)
"""The hash is the one that k-diffusion pins for this address (evaluation.py); others who fetched it report the same."""


class InceptionClean(nn.Module):
    """Images of any size -> 2048 features. weights: the published file; None for the one in the cache.

    TorchScript is a program: a file of any other hash is refused before a byte of it is interpreted.
    """

    dims = 2048
    name = "inception-clean"
    fingerprint = f"inception-clean-1:{PUBLISHED.sha256}"

    def __init__(self, weights: str | None = None) -> None:
        from cleanfid.resize import build_resizer

        super().__init__()
        path = PUBLISHED.find(weights, self.name)
        data = path.read_bytes()
        if (found := hashlib.sha256(data).hexdigest()) != PUBLISHED.sha256:
            raise UserError(f"{path}: has SHA-256 {found}, so it is another program and is not run; {PUBLISHED.advice}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)     # PyTorch prefers torch.export; clean-fid's file is older
            self.network = torch.jit.load(io.BytesIO(data), map_location="cpu").eval()  # type: ignore[no-untyped-call]
        self.resize = build_resizer("clean")
        self.pool = ThreadPoolExecutor(os.cpu_count() or 1)

    @property
    def protocol(self) -> Mapping[str, Any]:
        return {
            "network": "Inception of 2015-12-05 (TorchScript of StyleGAN2-ADA), 2048-d pool before the classifier",
            "resize": "clean-fid: each channel as float to 299 x 299, Pillow's bicubic, clipped, not rounded",
            "scale": "(x - 128) / 128",
            "precision": "float32, TF32 off",
            "weights": f"sha256 {PUBLISHED.sha256}",
        }

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> Features:
        pictures = images.permute(0, 2, 3, 1).cpu().numpy()
        resized = torch.from_numpy(np.stack(list(self.pool.map(self.resize, pictures)))).permute(0, 3, 1, 2)
        with full_float32():
            return Features(self.network.layers((resized.to(images.device) - 128) / 128).view(len(images), self.dims))
