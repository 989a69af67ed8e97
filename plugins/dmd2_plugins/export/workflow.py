"""A workflow for ComfyUI in its API format: explicit sigmas, the sampler that was trained for, CFG 1.

Nodes are ComfyUI's own; ManualSigmas is among them since the end of 2025 (pull request 11499). sigma there is sigma /
alpha, and what enters the network is x / sqrt(1 + sigma^2). If sigma is the largest of the table, the sampler starts
from noise * sqrt(1 + sigma^2), pure noise to the network; otherwise from noise * sigma. A student whose first call is
at another time was trained on pure noise too, so its workflow adds the difference as the latent image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Graph = dict[str, dict[str, Any]]

LARGEST = 5000.0
"""Stands for infinity: above the largest sigma that ComfyUI has for tables that end in pure noise, 4519."""
PROMPT = "a llama wearing sunglasses"


def workflow(
    model: Mapping[str, Any], sigmas: Sequence[float], size: tuple[int, int], sampler: str, starts_at_end: bool
) -> Graph:
    """Node id -> its class, inputs and title; a list [id, n] is output n of a node.

    model: nodes by id, of which "model" gives the model, "clip" the text encoder and "vae" the VAE, as pairs.
    sigmas: of the calls, without the last zero. size: height and width. starts_at_end: of the table.
    """
    links, height, width = dict(model), *size
    nodes: Graph = links.pop("nodes")
    nodes = {
        **nodes,
        "prompt": node("CLIPTextEncode", clip=links["clip"], text=PROMPT),
        "nothing": node("CLIPTextEncode", clip=links["clip"], text=""),
        "empty": node("EmptyLatentImage", width=width, height=height, batch_size=1),
        "noise": node("RandomNoise", noise_seed=0),
        "sigmas": node("ManualSigmas", sigmas=listed(sigmas)),
        "sampler": node("KSamplerSelect", sampler_name=sampler),
        "guider": node("CFGGuider", model=links["model"], positive=["prompt", 0], negative=["nothing", 0], cfg=1.0),
    }
    start = ["empty", 0]
    if not starts_at_end:
        nodes |= difference(links["model"], sigmas[0])
        start = ["start", 0]
    inputs = {"noise": ["noise", 0], "guider": ["guider", 0], "sampler": ["sampler", 0], "sigmas": ["sigmas", 0]}
    nodes["sample"] = node("SamplerCustomAdvanced", **inputs, latent_image=start)
    nodes["decode"] = node("VAEDecode", samples=["sample", 0], vae=links["vae"])
    nodes["save"] = node("SaveImage", images=["decode", 0], filename_prefix="dmd2")
    return numbered(nodes)


def numbered(nodes: Graph) -> Graph:
    """The same with numbers for ids, as ComfyUI writes them, and the names as titles."""
    ids = {name: str(i) for i, name in enumerate(nodes, 1)}
    return {
        ids[name]: {
            "class_type": one["class_type"],
            "inputs": {k: [ids[v[0]], v[1]] if isinstance(v, list) else v for k, v in one["inputs"].items()},
            "_meta": {"title": name},
        }
        for name, one in nodes.items()
    }


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """One node."""
    return {"class_type": kind, "inputs": inputs}


def difference(model: Sequence[Any], sigma: float) -> Graph:
    """Nodes that make the latent image noise * (sqrt(1 + sigma^2) - sigma), of the same noise as the sampler's."""
    factor = (math.sqrt(1 + sigma**2) - sigma) / sigma
    inputs = {"model": list(model), "noise": ["noise", 0], "sigmas": ["sigmas", 0], "latent_image": ["empty", 0]}
    return {
        "scaled noise": node("AddNoise", **inputs),
        "start": node("LatentMultiply", samples=["scaled noise", 0], multiplier=round(factor, 6)),
    }


def listed(sigmas: Sequence[float]) -> str:
    """Numbers as the node reads them, which knows no exponents; the last is 0."""
    return ", ".join(f"{min(sigma, LARGEST):.6f}" for sigma in [*sigmas, 0.0])
