"""The kinds of plugin that can be begun, and what each is called in its package."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """group: of entry points, "dmd2.teachers" without "dmd2.". target: what the entry point names in the module."""

    name: str
    group: str
    target: str
    does: str
    """What the template does, for the README."""


KINDS = {
    kind.name: kind
    for kind in (
        Kind("teacher", "teachers", "teacher", "a class-conditional denoiser of pictures of bars, fitted when made"),
        Kind("loss", "losses", "Smooth", "a generator term: the total variation of the student's samples"),
        Kind("sampler", "samplers", "EtaDdim", "DDIM with eta: from the ODE (0) to ancestral sampling (1)"),
        Kind("dataset", "datasets", "Bars", "labelled pictures of bars, item i a function of i"),
        Kind("metric", "metrics", "Sharpness", "the mean strength of edges in the images"),
        Kind("exporter", "exporters", "export", "one NumPy archive of the weights and the inference contract"),
        Kind("reward", "rewards", "contrast", "the contrast of every image"),
    )
}  # fmt: skip
BARS = ("teacher", "dataset")
"""Kinds whose modules share the pictures of bars."""
