"""Small images for the tests of metrics."""

import numpy as np
import torch
from PIL import Image


def pictures(n, seed=0, side=8):
    """n smooth random images, uint8 (n, 3, side, side)."""
    noise = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(noise, side, mode="bilinear") * 255).round().to(torch.uint8)


def save(images, folder):
    """Images as numbered PNG files; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).save(folder / f"{i:05}.png")
    return folder
