"""The task sd-tiny-digits: a VAE first, then a UNet and its text encoder on the latents, in one training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dmd2_plugins.captioned_digits.parts import CHANNELS, FACTOR, SIDE, TABLE, Parts
from dmd2_plugins.digits.captions import WORDINGS, caption
from dmd2_plugins.digits.data import CLASSES, images
from dmd2cli.core.noise import Discrete, diffuse, scales
from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError
from dmd2cli.protocols import Raw, Task

Pixels = Float[Tensor, "b 3 8 8"]


def pipeline(
    vae: tuple[int, int] = (16, 32),
    unet: tuple[int, int] = (32, 64),
    vae_steps: int = 500,
    kl: float = 1e-5,
    caption_dropout: float = 0.1,
    wrong_captions: float = 0.2,
) -> Task:
    """vae, unet: channels, from the finest resolution. vae_steps: the first so many of the run are the VAE's.

    kl: weight of its divergence from the unit normal. caption_dropout: share of empty captions, for classifier-free
    guidance. wrong_captions: share that names any digit, as captions found on the web do; guidance leaves those out.
    Raises UserError for channels that do not fit.
    """
    network, table, known = Parts(vae, unet), Discrete.scaled_linear(*TABLE), dict[str, float]()

    def loss(net: nn.Module, x: Tensor, raw: Sequence[Raw], rng: Rng) -> Tensor:
        assert isinstance(net, Parts)
        pixels = x.expand(-1, 3, -1, -1)
        if rng.step < vae_steps:
            return autoencoding(net, pixels, kl, rng)
        if not known:
            known["scale"] = scale(net)             # of a VAE that moves no more: the same in a run that continues
        texts = captions(raw, pixels, wrong_captions, caption_dropout, rng)
        return denoising(net, pixels, texts, known["scale"], table, rng)

    return Task(network, loss, score, {"family": "sd-tiny-digits", "vae": list(vae), "unet": list(unet)}, save)


def autoencoding(net: Parts, pixels: Pixels, kl: float, rng: Rng) -> Tensor:
    """Squared error, and divergence of the posterior from the unit normal (Rombach et al. 2022, App. G; no GAN)."""
    posterior = net.vae.encode(pixels).latent_dist
    z = posterior.mean + posterior.std * noise(pixels, rng)
    return F.mse_loss(net.vae.decode(z).sample, pixels) + kl * posterior.kl().mean()


def denoising(net: Parts, pixels: Pixels, texts: list[str], scale: float, table: Discrete, rng: Rng) -> Tensor:
    """Squared error in v = alpha eps - sigma x (Salimans & Ho 2022, Sec. 4) at uniform timesteps."""
    with torch.no_grad():
        posterior = net.vae.encode(pixels).latent_dist
        x = scale * (posterior.mean + posterior.std * noise(pixels, rng))
    t, eps = 1 - rng.uniform("t", x), rng.normal("eps", x)
    alpha, sigma = scales(table, t, x)
    v = net.unet(diffuse(x, t, table, eps), table.index(t), net.read(texts)).sample
    return F.mse_loss(v, (alpha * eps - sigma * x).float())


def noise(pixels: Pixels, rng: Rng) -> Float[Tensor, "b 4 4 4"]:
    """Unit normal of the shape of the latents, for a sample of the posterior."""
    return rng.normal("posterior", pixels.new_empty(len(pixels), CHANNELS, SIDE // FACTOR, SIDE // FACTOR))


def captions(raw: Sequence[Raw], x: Tensor, wrong: float, dropped: float, rng: Rng) -> list[str]:
    """Of some labels: in any wording, a share of them of any digit, a share of them empty."""
    named = ("wording", "digit", "wrong", "dropped")
    found = list[str]()
    for label, *draws in zip(raw, *(rng.uniform(name, x).tolist() for name in named), strict=True):
        if not isinstance(label, int):
            raise UserError(f"sd-tiny-digits: {label!r} is not the label of a digit; set data.real to digits")
        digit = int(draws[1] * CLASSES) if draws[2] < wrong else label
        found.append("" if draws[3] < dropped else caption(digit, int(draws[0] * len(WORDINGS))))
    return found


@torch.no_grad()
def scale(net: Parts) -> float:
    """The factor that makes the latents of all digits of unit variance."""
    return 1 / float(net.vae.encode(every(net)).latent_dist.mean.std())


@torch.no_grad()
def score(net: nn.Module) -> Mapping[str, float]:
    """Root mean square error of what the VAE makes of all digits, in model units."""
    assert isinstance(net, Parts)
    again = net.vae.decode(net.vae.encode(every(net)).latent_dist.mean).sample
    return {"vae_rmse": float(F.mse_loss(again, every(net)).sqrt())}


def every(net: Parts) -> Pixels:
    """All digits, where the network is."""
    return images()[0].expand(-1, 3, -1, -1).to(net.vae.device)


def save(net: nn.Module, folder: Path) -> None:
    """The pipeline as diffusers reads it, in the run folder."""
    assert isinstance(net, Parts)
    net.save(folder / "pipeline", scale(net))
