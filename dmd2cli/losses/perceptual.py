"""LPIPS: how different two images look (Zhang et al. 2018, Eq. 1), by the VGG variant of the `lpips` package.

The package brings its own five linear layers; the VGG-16 beneath them, 528 MB, is ImageNet's of torchvision. Nothing
is downloaded, printed or unpickled here: the network is built empty, and filled from files that hold tensors alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dmd2cli.errors import UserError
from dmd2cli.weights import read_weights

SMALLEST = 16
"""Pixels: VGG halves its input four times."""
DOWNLOAD = 'python -c "import torchvision.models as m; m.vgg16(weights=m.VGG16_Weights.DEFAULT)"'
"""What puts the file into torch hub's cache."""

Images = Float[Tensor, "b 3 h w"]


def lpips_vgg(weights: str | None, device: torch.device) -> nn.Module:
    """The network (images, images) -> distances (b, 1, 1, 1): images in [-1, 1], at least 16 pixels a side.

    Float32, frozen: gradients flow to the images alone. weights: a file of torchvision's VGG-16, .safetensors or
    .pth; None for torch hub's cache. Raises UserError if it is missing or something else.
    """
    return _network(backbone(weights), device)


def enlarge(images: Images, resize: int | None) -> Images:
    """Bilinear, until the shorter side has `resize` pixels; images that have as many, or None, stay as they are."""
    shorter = min(images.shape[-2:])
    if resize is None or shorter >= resize:
        return images
    size = [round(side * resize / shorter) for side in images.shape[-2:]]
    return F.interpolate(images, size, mode="bilinear", align_corners=False)


def backbone(weights: str | None) -> Path:
    """Where the VGG-16 is. Raises UserError, with the ways out, if there is no such file."""
    path = Path(weights).expanduser() if weights else Path(torch.hub.get_dir()) / "checkpoints/vgg16-397923af.pth"
    if not path.is_file():
        raise UserError(
            f"LPIPS needs the weights of VGG-16: {path}: no such file, and nothing is downloaded here; run {DOWNLOAD} "
            "once, set weights to a .pth or .safetensors of them, or take distance: l2"
        )
    return path


@lru_cache
def _network(path: Path, device: torch.device) -> nn.Module:
    """Imports the package here, because that takes seconds and most runs have no use for it."""
    import lpips

    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")    # its call is an old one
        net = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    linear = torch.load(Path(lpips.__file__).with_name("weights") / "v0.1/vgg.pth", "cpu", weights_only=True)
    net.load_state_dict(linear, strict=False, assign=True)
    net.net.load_state_dict(_features(net.net, _read(path), path), assign=True)
    return net.to(device).eval().requires_grad_(False)


def _read(path: Path) -> Mapping[str, Any]:
    """The state dict in a file. Raises UserError if it is cut short, or holds more than tensors."""
    if path.suffix == ".safetensors":
        return read_weights(path)
    try:
        found = torch.load(path, "cpu", weights_only=True)
    except Exception as err:                               # there is no end to what a damaged file may raise
        why = f"{type(err).__name__}; cut short, or it holds more than tensors"
        raise UserError(f"{path}: not readable as weights ({why}); run {DOWNLOAD} for the file") from err
    return found if isinstance(found, Mapping) else {}


def _features(vgg: nn.Module, found: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """torchvision's "features.5.weight" under the package's names, "slice2.5.weight", in float32."""
    own = {name: (f"features.{name.partition('.')[2]}", shape.shape) for name, shape in vgg.state_dict().items()}
    wrong = [k for k, shape in own.values() if getattr(found.get(k), "shape", None) != shape]
    if wrong:
        raise UserError(
            f"{path}: not the weights of torchvision's VGG-16: {', '.join(wrong[:3])} "
            f"({len(wrong)} in all) missing or of another shape; run {DOWNLOAD} for the file"
        )
    return {name: found[key].float() for name, (key, _) in own.items()}
