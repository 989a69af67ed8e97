"""A random VGG-16 on disk, in place of ImageNet's."""

import pytest
import torch
from torchvision.models import vgg16


@pytest.fixture(scope="session")
def vgg():
    """torchvision's names and shapes, without the classifier, which LPIPS has no use for."""
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in vgg16().state_dict().items() if k.startswith("features.")}
    g = torch.Generator().manual_seed(0)
    return {k: torch.randn(s, generator=g) * (2 / s[1:].numel()) ** 0.5 for k, s in shapes.items()}


@pytest.fixture(scope="session")
def vgg_file(vgg, tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save(vgg, path)
    return str(path)
