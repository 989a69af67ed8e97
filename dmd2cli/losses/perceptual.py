"""LPIPS: how different two images look (Zhang et al. 2018, Eq. 1), by the `lpips` package; the loss by its VGG variant.

The package brings its own linear layers; the VGG-16 beneath them, 528 MB, is ImageNet's of torchvision. Nothing
is downloaded, printed or unpickled here: the network is built empty, and filled from files that hold tensors alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Backbone:
    """A network of torchvision that LPIPS stands on, by its name in the `lpips` package."""

    net: str
    title: str
    torchvision: str
    """What torchvision calls its function; its weights' enumeration is `weights`."""
    weights: str
    file: str
    """In torch hub's cache."""

    @property
    def download(self) -> str:
        """What puts the file into torch hub's cache."""
        return f'python -c "import torchvision.models as m; m.{self.torchvision}(weights=m.{self.weights}.DEFAULT)"'


VGG = Backbone("vgg", "VGG-16", "vgg16", "VGG16_Weights", "vgg16-397923af.pth")
BACKBONES = {
    "vgg": VGG,
    "alex": Backbone("alex", "AlexNet", "alexnet", "AlexNet_Weights", "alexnet-owt-7be5be79.pth"),
    "squeeze": Backbone(
        "squeeze", "SqueezeNet 1.1", "squeezenet1_1", "SqueezeNet1_1_Weights", "squeezenet1_1-b8a52dc0.pth"
    ),
}

Images = Float[Tensor, "b 3 h w"]


def lpips_vgg(weights: str | None, device: torch.device) -> nn.Module:
    """The network (images, images) -> distances (b, 1, 1, 1): images in [-1, 1], at least 16 pixels a side.

    Float32, frozen: gradients flow to the images alone. weights: a file of torchvision's VGG-16, .safetensors or
    .pth; None for torch hub's cache. Raises UserError if it is missing or something else.
    """
    return lpips_net(VGG, weights, device, ", or take distance: l2")


def lpips_net(on: Backbone, weights: str | None, device: torch.device, way_out: str = "") -> nn.Module:
    """lpips_vgg() on any backbone. way_out: what else a person may do without its weights."""
    return _network(on, backbone(on, weights, way_out), device)


def enlarge(images: Images, resize: int | None) -> Images:
    """Bilinear, until the shorter side has `resize` pixels; images that have as many, or None, stay as they are."""
    shorter = min(images.shape[-2:])
    if resize is None or shorter >= resize:
        return images
    size = [round(side * resize / shorter) for side in images.shape[-2:]]
    return F.interpolate(images, size, mode="bilinear", align_corners=False)


def backbone(on: Backbone, weights: str | None, way_out: str = "") -> Path:
    """Where its weights are. Raises UserError, with the ways out, if there is no such file."""
    path = Path(weights).expanduser() if weights else Path(torch.hub.get_dir()) / "checkpoints" / on.file
    if not path.is_file():
        raise UserError(
            f"LPIPS needs the weights of {on.title}: {path}: no such file, and nothing is downloaded here; run "
            f"{on.download} once, or set weights to a .pth or .safetensors of them{way_out}"
        )
    return path


@lru_cache
def _network(on: Backbone, path: Path, device: torch.device) -> nn.Module:
    """Imports the package here, because that takes seconds and most runs have no use for it."""
    import lpips

    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")    # its call is an old one
        net = lpips.LPIPS(net=on.net, pretrained=False, pnet_rand=True, verbose=False)
    linear = torch.load(Path(lpips.__file__).with_name("weights") / f"v0.1/{on.net}.pth", "cpu", weights_only=True)
    net.load_state_dict(linear, strict=False, assign=True)
    net.net.load_state_dict(_features(on, net.net, _read(on, path), path), assign=True)
    return net.to(device).eval().requires_grad_(False)


def _read(on: Backbone, path: Path) -> Mapping[str, Any]:
    """The state dict in a file. Raises UserError if it is cut short, or holds more than tensors."""
    if path.suffix == ".safetensors":
        return read_weights(path)
    try:
        found = torch.load(path, "cpu", weights_only=True)
    except Exception as err:                               # there is no end to what a damaged file may raise
        why = f"{type(err).__name__}; cut short, or it holds more than tensors"
        raise UserError(f"{path}: not readable as weights ({why}); run {on.download} for the file") from err
    return found if isinstance(found, Mapping) else {}


def _features(on: Backbone, net: nn.Module, found: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """torchvision's "features.5.weight" under the package's names, "slice2.5.weight", in float32."""
    own = {name: (f"features.{name.partition('.')[2]}", shape.shape) for name, shape in net.state_dict().items()}
    wrong = [k for k, shape in own.values() if getattr(found.get(k), "shape", None) != shape]
    if wrong:
        raise UserError(
            f"{path}: not the weights of torchvision's {on.title}: {', '.join(wrong[:3])} "
            f"({len(wrong)} in all) missing or of another shape; run {on.download} for the file"
        )
    return {name: found[key].float() for name, (key, _) in own.items()}
