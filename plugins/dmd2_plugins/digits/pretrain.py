"""How the shipped weights were made: tasks for `dmd2 pretrain recipes/digits-{teacher,classifier}.yaml`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmd2_plugins.digits.classifier import Classifier
from dmd2_plugins.digits.data import images
from dmd2_plugins.digits.teacher import SIGMA_DATA, encode, network
from dmd2cli.core.noise import diffuse, scales
from dmd2cli.core.objective import denoising
from dmd2cli.core.random import Rng
from dmd2cli.core.weighting import edm
from dmd2cli.protocols import Raw, Task


def teacher(
    channels: tuple[int, ...] = (16, 32, 64), p_mean: float = -1.2, p_std: float = 1.2, label_dropout: float = 0.1
) -> Task:
    """EDM training (Karras et al. 2022, Table 1): log sigma ~ N(p_mean, p_std^2), weight snr + 1 / sigma_data^2."""
    denoiser = network(channels)

    def loss(net: nn.Module, x: Tensor, raw: Sequence[Raw], rng: Rng) -> Tensor:
        sigma = (p_mean + p_std * rng.normal("sigma", x[:, 0, 0, 0])).exp()
        t = denoiser.schedule.time(sigma).float()
        keep = (rng.uniform("drop", x) >= label_dropout).float()[:, None]
        cond = {"label": encode(raw)[0]["label"].to(x.device) * keep}
        x_hat = net(diffuse(x, t, denoiser.schedule, rng.normal("eps", x)), t, cond)
        alpha, sigma = scales(denoiser.schedule, t, x)
        return denoising(x_hat, x, edm(alpha, sigma, SIGMA_DATA).float())

    return Task(denoiser, loss, details={"family": "digits", "channels": list(channels)})


def classifier() -> Task:
    """Cross-entropy on shifted and slightly noisy digits; its accuracy on the last 20 % is in the metadata."""

    def loss(net: nn.Module, x: Tensor, raw: Sequence[Raw], rng: Rng) -> Tensor:
        x = x + 0.1 * rng.normal("noise", x)
        labels = torch.tensor([int(label) for label in raw if label is not None], device=x.device)
        return F.cross_entropy(net(x), labels)

    @torch.no_grad()
    def score(net: nn.Module) -> Mapping[str, float]:
        x, labels = images()
        test = slice(len(x) * 4 // 5, None)
        return {"test_accuracy": (net(x[test]).argmax(1) == labels[test]).double().mean().item()}

    return Task(Classifier(), loss, score, details={"family": "digits-classifier"})
