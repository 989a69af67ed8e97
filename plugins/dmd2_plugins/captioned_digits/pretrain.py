"""The task sd-tiny-digits: a VAE first, then a UNet with its text encoder on the latents, in one training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dmd2_plugins.captioned_digits.parts import CHANNELS, FACTOR, SCHEDULER, SIDE, Parts
from dmd2_plugins.digits.captions import WORDINGS, caption
from dmd2_plugins.digits.data import CLASSES, images
from dmd2cli.core.noise import Discrete, diffuse, scales
from dmd2cli.core.random import Rng
from dmd2cli.protocols import Raw, Task

SCHEDULE = Discrete.scaled_linear(SCHEDULER["beta_start"], SCHEDULER["beta_end"], SCHEDULER["num_train_timesteps"])


def enlarged(x: Float[Tensor, "b 1 8 8"]) -> Float[Tensor, "b 3 8 8"]:
    """Digits as pictures in colour of twice the size."""
    return x.expand(-1, 3, -1, -1)


def pipeline(
    vae: tuple[int, ...] = (16, 32),
    unet: tuple[int, ...] = (32, 64),
    vae_steps: int = 1000,
    kl: float = 1e-4,
    caption_dropout: float = 0.1,
    wrong_captions: float = 0.2,
) -> Task:
    """vae, unet: channels. vae_steps: of the run, for the VAE alone. kl: weight of its posterior's divergence.

    caption_dropout: share of empty captions, for classifier-free guidance. wrong_captions: share that names any digit,
    as captions found beside pictures do.
    """
    network = Parts(vae, unet)
    found: dict[str, float] = {}

    def loss(net: nn.Module, x: Tensor, raw: Sequence[Raw], rng: Rng) -> Tensor:
        assert isinstance(net, Parts)
        if rng.step < vae_steps:
            return autoencoding(net, enlarged(x), rng, kl)
        if not found:
            found["scale"] = scale(net)                  # of the finished VAE: the same whenever a run continues
        texts = captions(raw, x, rng, caption_dropout, wrong_captions)
        return denoising(net, enlarged(x), texts, rng, found["scale"])

    details = {"family": "sd-tiny-digits", "vae": list(vae), "unet": list(unet)}
    return Task(network, loss, score, details, save=save)


def autoencoding(net: Parts, pixels: Float[Tensor, "b 3 8 8"], rng: Rng, kl: float) -> Tensor:
    """Squared error and divergence from the unit normal (Rombach et al. 2022, App. G, without their GAN)."""
    posterior, z = net.encode(pixels, noise(rng, pixels))
    return F.mse_loss(net.vae.decode(z).sample, pixels) + kl * posterior.kl().mean()


def denoising(net: Parts, pixels: Tensor, texts: list[str], rng: Rng, scale: float) -> Tensor:
    """Squared error in the velocity alpha eps - sigma x (Salimans & Ho 2022), at uniform timesteps."""
    with torch.no_grad():
        x = scale * net.encode(pixels, noise(rng, pixels))[1]
    t, eps = 1 - rng.uniform("t", x), rng.normal("eps", x)
    alpha, sigma = scales(SCHEDULE, t, x)
    found = net.unet(diffuse(x, t, SCHEDULE, eps), SCHEDULE.index(t), net.read(texts)).sample
    return F.mse_loss(found, (alpha * eps - sigma * x).float())


def noise(rng: Rng, pixels: Tensor) -> Tensor:
    """Unit normal of the shape of the latents."""
    side = SIDE // FACTOR
    return rng.normal("posterior", pixels.new_empty(len(pixels), CHANNELS, side, side))


def captions(raw: Sequence[Raw], x: Tensor, rng: Rng, dropped: float, wrong: float) -> list[str]:
    """Of some labels: any of the wordings, some of them of another digit, some of them empty."""
    draw = {name: rng.uniform(name, x).tolist() for name in ("wording", "wrong", "digit", "dropped")}
    found = []
    for i, label in enumerate(raw):
        digit = int(draw["digit"][i] * CLASSES) if draw["wrong"][i] < wrong else int(label)  # type: ignore[arg-type]
        text = caption(digit, int(draw["wording"][i] * len(WORDINGS)))
        found.append("" if draw["dropped"][i] < dropped else text)
    return found


@torch.no_grad()
def scale(net: Parts) -> float:
    """What makes the latents of all digits of unit variance."""
    place = next(net.parameters()).device
    return 1 / float(net.vae.encode(enlarged(images()[0]).to(place)).latent_dist.mean.std())


@torch.no_grad()
def score(net: nn.Module) -> Mapping[str, float]:
    """Root mean square error of what the VAE makes of all digits, in model units."""
    pixels = enlarged(images()[0]).to(next(net.parameters()).device)
    again = net.vae.decode(net.vae.encode(pixels).latent_dist.mean).sample  # type: ignore[operator,union-attr]
    return {"vae_rmse": float(F.mse_loss(again, pixels).sqrt())}


def save(net: nn.Module, folder: Path) -> None:
    """The pipeline, as diffusers reads it."""
    assert isinstance(net, Parts)
    net.save(folder / "pipeline", scale(net))


partial
