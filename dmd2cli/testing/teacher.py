"""check_teacher: what the engine takes for granted of a Teacher."""

from __future__ import annotations

import torch

from dmd2cli.core.denoiser import guided
from dmd2cli.core.noise import diffuse, scales
from dmd2cli.core.random import Rng
from dmd2cli.protocols import Teacher
from dmd2cli.testing import network
from dmd2cli.testing.said import every, say
from dmd2cli.testing.schedule import check_schedule
from dmd2cli.testing.setting import LOW, ROWS, denoiser, noisy, own_samples, some
from dmd2cli.testing.sharded import sharding
from dmd2cli.testing.step import players, step


def check_teacher(teacher: Teacher) -> None:
    """All that the engine takes for granted of a Teacher, ending with one whole DMD2 step."""
    every(CHECKS, teacher)


def schedule(teacher: Teacher) -> None:
    """SNR falls from data to noise, and time() inverts the clock."""
    check_schedule(teacher.schedule)


def conditions(teacher: Teacher) -> None:
    """encode gives a row of condition and of null condition for each raw one, None included, the same each time."""
    names = teacher.encode([])[0].keys()
    for raw in (some(teacher), some(teacher)[:1], [None] * ROWS, []):
        cond, null = teacher.encode(raw)
        say(cond.keys() == names, "encode of no conditions must give the names of all, with no rows")
        say(cond.keys() == null.keys(), "encode must give the null condition the same names as the condition")
        rows = {len(value) for value in (*cond.values(), *null.values())}
        say(rows <= {len(raw)}, f"encode must give one row per raw condition: {len(raw)} asked, {sorted(rows)} given")
        again = teacher.encode(raw)[0]
        say(all(cond[k].equal(again[k]) for k in cond), "encode must give a label or text the same condition each time")


def prediction(teacher: Teacher) -> None:
    """x_hat has the shape of x_t, is finite and float32, and a second call gives the same."""
    (x_t, t), (cond, null) = noisy(teacher), teacher.encode(some(teacher))
    net = denoiser(teacher.denoiser)
    with torch.no_grad():
        x_hat = net(x_t, t, cond)
        say(x_hat.shape == x_t.shape, f"x_hat must have the shape of x_t, {tuple(x_t.shape)}, not {tuple(x_hat.shape)}")
        say(x_hat.dtype == torch.float32, f"x_hat must be float32, not {x_hat.dtype}; end the adapter with .float()")
        say(x_hat.isfinite().all(), "x_hat is not finite for t in [0.2, 1]; look at c_noise and c_skip")
        same = guided(net, 1.0, cond, null)(x_t, t).equal(x_hat)
        say(same, "guidance of scale 1 must change nothing, but a second call differs; is dropout off (eval())?")


def guidance(teacher: Teacher) -> None:
    """Guidance of scale 0 is the null condition: x_hat(null) + 0 (x_hat(cond) - x_hat(null))."""
    (x_t, t), (cond, null) = noisy(teacher), teacher.encode(some(teacher))
    net = denoiser(teacher.denoiser)
    with torch.no_grad():
        near = torch.allclose(guided(net, 0.0, cond, null)(x_t, t), net(x_t, t, null), rtol=1e-3, atol=1e-3)
    say(near, "guidance of scale 0 must give the null condition: rows of one batch must not influence each other")


def rows(teacher: Teacher) -> None:
    """x_hat of a row depends on that row alone, not on its company in the batch."""
    (x_t, t), cond = noisy(teacher), teacher.encode(some(teacher))[0]
    with torch.no_grad():
        together = teacher.denoiser(x_t, t, cond)
        alone = torch.cat(
            [teacher.denoiser(x_t[i : i + 1], t[i : i + 1], {k: v[i : i + 1] for k, v in cond.items()})
             for i in range(ROWS)]
        )  # fmt: skip
    gap = float((together - alone).abs().max() / together.abs().max().clamp(min=1e-6))
    why = "take batch statistics out (BatchNorm, x.mean(0)): rows of one batch must not influence each other"
    say(gap <= 1e-3, f"x_hat of a row changes with its company, by {gap:.2g} of the largest; {why}")


def low_noise(teacher: Teacher) -> None:
    """x_hat tends to x as t -> 0: at sigma / alpha = 0.01 it errs by a few times that at most."""
    x, cond = own_samples(teacher), teacher.encode(some(teacher))[0]
    t = teacher.schedule.time(torch.full((ROWS,), LOW, dtype=torch.float64)).clamp(0, 1)
    alpha, sigma = scales(teacher.schedule, t, x)
    with torch.no_grad():
        x_hat = teacher.denoiser(diffuse(x, t, teacher.schedule, Rng(0, 0).normal("eps", x)), t.float(), cond)
    error, ratio = float((x_hat - x).square().mean().sqrt()), float((sigma / alpha).max())
    why = "is this the parametrisation (eps, v, flow, edm) and the c_noise that the network was trained with?"
    say(error <= 3 * ratio, f"x_hat must tend to x as t -> 0, but errs by {error:.3g} at noise {ratio:.3g}; {why}")


def pictures(teacher: Teacher) -> None:
    """decode makes uint8 RGB images of model units, one per sample."""
    images = teacher.decode(own_samples(teacher))
    say(images.dtype == torch.uint8, f"decode must give uint8 images, not {images.dtype}")
    say(images.ndim == 4 and images.shape[:2] == (ROWS, 3), f"decode must give (b, 3, h, w), not {tuple(images.shape)}")


CHECKS = (
    schedule, conditions, prediction, guidance, rows, low_noise, pictures,
    network.features, network.deep_copies, network.own_weights, sharding, players, step,
)  # fmt: skip
"""In the order in which one rests on another."""
