"""How far an update moved the weights, as a share of them: read from the moments of AdamW."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from dmd2cli.engine.sharding import local


@torch.no_grad()
def update_ratio(
    parameters: Iterable[Tensor],
    moments: Iterable[Mapping[str, Tensor]],
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    total: Callable[[Tensor], Tensor] = lambda squares: squares,
) -> Tensor:
    """|last update| / |weights|, L2 norms over all parameters: 0-dim float32. Nothing waits for the device.

    moments: {"step", "exp_avg", "exp_avg_sq"} of each parameter after that update; lr, betas, eps, weight_decay: of
    that update. DTensors count with what this rank has of them; total: sums a tensor over the ranks.

        d = -lr (m_hat / (sqrt(v_hat) + eps) + weight_decay w_before)       (Loshchilov & Hutter 2019, Alg. 2)

    That is what AdamW added, exact up to rounding, since w_before follows from w. It is an approximation where moments
    are stored in 8 bits, for a parameter that the last update had no gradient for (then its last one counts), and
    where something else has changed the weights since. A skipped update leaves the number of the one before.
    """
    squares = []
    for p, found in zip(parameters, moments, strict=True):
        w = local(p)
        here = {name: local(value).to(w.device, non_blocking=True) for name, value in found.items()}
        moved = update(w, here, lr, betas, eps, weight_decay)
        squares.append(torch.stack([torch.linalg.vector_norm(moved), torch.linalg.vector_norm(w)]).float().square())
    moved_by, weights = total(torch.stack(squares).sum(0))
    return (moved_by / weights).sqrt()


def update(
    w: Tensor,
    moments: Mapping[str, Tensor],
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> Tensor:
    """-d of one parameter: one new tensor of its size. Zero if it was never updated."""
    step = moments["step"].clamp(min=1)
    found = (moments["exp_avg_sq"] / (1 - betas[1] ** step)).sqrt_().add_(eps)
    torch.div(moments["exp_avg"], found, out=found)
    found.mul_(lr / (1 - betas[0] ** step))
    again = lr * weight_decay / (1 - lr * weight_decay)                     # w_before = (w + found) / (1 - lr decay)
    found.mul_(1 + again).add_(w, alpha=again)
    return found.mul_(moments["step"] > 0)
