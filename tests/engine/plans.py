"""Recipes of tests about plans: real data of any shape, and none of it before it is asked for."""

import torch

from dmd2cli.protocols import Example
from dmd2cli.recipe import load

SMALL = ("run.device=cpu", "run.batch=32", "run.threads=1", "data.real={use: blobs}", "ttur=2")
EDM = (
    "teacher={use: edm, preset: tiny-adm}", "losses.joint_critic=null", "losses.denoising.weight=1.0",
    "losses.gan_critic.weight=0.01",
)  # fmt: skip


class Blobs:
    """A data set that allocates nothing until it is asked. path: for one that is not there."""

    def __init__(self, shape: tuple[int, ...] = (1, 8, 8), path: str | None = None) -> None:
        if path is not None:
            raise AssertionError("a plan opens no data")
        self.shape = shape

    def __len__(self):
        return 100

    def __getitem__(self, i):
        return Example(torch.zeros(self.shape), i % 10)


def shaped(*overrides):
    """A recipe; its real data has the shape of the EDM family's tiny images where that is the teacher."""
    real = "data.real={use: blobs, shape: [3, 16, 16]}" if any("edm" in o for o in overrides) else ""
    return load("digits", [*SMALL, *filter(None, [real]), *overrides])
