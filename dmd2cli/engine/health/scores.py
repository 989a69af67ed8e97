"""How the networks stand to each other at the student's samples: score gap, gradients, discriminator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dmd2cli.core.noise import diffuse
from dmd2cli.core.random import Rng
from dmd2cli.engine.balance import REFERENCE, Balance
from dmd2cli.engine.cut import activate
from dmd2cli.engine.distillation import Distillation
from dmd2cli.engine.player import without_gradient
from dmd2cli.losses.distribution_matching import DistributionMatching
from dmd2cli.losses.gan import Diffusion
from dmd2cli.losses.joint_critic import JointCritic
from dmd2cli.protocols import Sample

BANDS = 4
"""Noise bands, equal parts of the clock from t_min to t_max of distribution_matching; band-0 has the least noise."""


def all_of(d: Distillation, s: Sample, rng: Rng) -> dict[str, Tensor]:
    """Everything below, of one micro-batch of samples."""
    return {
        **gap(d, s, rng.stream("gap")),
        **accuracy(d, s, rng.stream("accuracy")),
        **gradients(d, s, rng.stream("gradients")),
    }


@torch.no_grad()
def gap(d: Distillation, s: Sample, rng: Rng) -> dict[str, Tensor]:
    """How far apart the two scores are in each noise band, as a share of how far the teacher would move the sample.

    |x_real - x_fake| / |x - x_real|, means over elements and over a band's rows of s. 0: the fake score is the
    teacher's, as at the start of a run; it rises when the student moves, and falls as it comes to fit.
    """
    terms: list[Any] = [loss for _, loss in d.terms.values()]
    term = next((loss for loss in terms if isinstance(loss, DistributionMatching)), None)
    if term is None:
        return {}
    nets, width = d.nets_for(s.call), (term.t_max - term.t_min) / BANDS
    band = torch.arange(s.rows.start, s.rows.start + len(s.x), device=s.x.device) % BANDS
    t = term.t_min + width * (band + rng.uniform("t", s.x))
    x_t = diffuse(s.x, t, nets.schedule, rng.normal("eps", s.x))
    x_real, x_fake = term.predictions(x_t, t, s, nets)
    share = (x_real - x_fake).abs().flatten(1).mean(1) / (s.x - x_real).abs().flatten(1).mean(1).clamp(min=1e-8)
    return {f"gap/band-{b}": share[band == b].mean() for b in sorted({*band.tolist()})}


def gradients(d: Distillation, s: Sample, rng: Rng) -> dict[str, Tensor]:
    """Every generator term's gradient at the sample, times its weight, over that of distribution matching (L2 norms).

    About 0.1 to 3 for a GAN term, by the authors' advice to begin where the two norms are equal.
    """
    nets, norms = d.nets_for(s.call), dict[str, Tensor]()
    leaf = s.detached()
    leaf.x.requires_grad_()
    with without_gradient([d.generator, *d.critics]):
        for name, (weight, loss) in d.terms.items():
            if loss.player != "generator" or getattr(loss, "reads_pairs", False):
                continue
            value = loss(leaf, nets, rng.stream(name)) * (weight.weight if isinstance(weight, Balance) else weight)
            if value.requires_grad:
                activate(nets.real if nets.reads == "teacher" else nets.fake)
                (grad,) = torch.autograd.grad(value, [leaf.x])
                norms[name] = grad.norm()
    if (reference := norms.pop(REFERENCE, None)) is None:
        return {}
    return {f"gradient/{name}": norm / reference.clamp(min=1e-12) for name, norm in norms.items()}


@torch.no_grad()
def accuracy(d: Distillation, s: Sample, rng: Rng) -> dict[str, Tensor]:
    """Share of the student's samples, and of real ones, that the discriminator takes for what they are.

    Diffused as the critic's term does it. Under much noise nobody can tell, so even a strong head stays below 1.
    """
    terms = [loss for _, loss in d.terms.values() if loss.player == "critic" and loss.reads_real]
    if not terms or s.real is None:
        return {}
    nets, found = d.nets_for(s.call), dict[str, Tensor]()
    term = terms[0] if isinstance(terms[0], Diffusion) else Diffusion()
    if not isinstance(terms[0], (Diffusion, JointCritic)):
        return {}
    for side, x, cond in (("fake", s.x, s.cond), ("real", s.real, s.real_cond)):
        t = term.times(nets, rng, f"t_{side}", x)
        logits = nets.realism(term.noised(x, t, nets, rng.normal(f"eps_{side}", x)), t, cond)
        found[f"accuracy/{side}"] = ((logits > 0) == (side == "real")).float().mean()
    return found
