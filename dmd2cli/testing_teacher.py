"""check_teacher of dmd2cli.testing: what the engine takes for granted of a Teacher."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn

from dmd2cli import registry
from dmd2cli.core.denoiser import Denoiser, guided
from dmd2cli.core.heads import logits
from dmd2cli.core.noise import NoiseSchedule, diffuse, scales
from dmd2cli.core.random import Rng
from dmd2cli.data.base import Batch
from dmd2cli.engine import build
from dmd2cli.engine.distillation import Distillation
from dmd2cli.protocols import Raw, Teacher
from dmd2cli.recipe import Recipe
from dmd2cli.samplers.ddim import Ddim
from dmd2cli.source import Source

ROWS = 4
"""Samples that every check works with."""
LOW = 0.01
"""sigma / alpha at which a denoiser has next to nothing left to remove."""


def say(ok: object, problem: str) -> None:
    """Raise AssertionError(problem) unless ok: an assert that also works under python -O."""
    if not ok:
        raise AssertionError(problem)


def check_teacher(teacher: Teacher) -> None:
    """All that the engine takes for granted of a Teacher, ending with one whole DMD2 step."""
    check_schedule(teacher.schedule)
    check_encode(teacher)
    check_denoiser(teacher)
    check_low_noise(teacher)
    check_decode(teacher)
    check_features(teacher)
    check_copies(teacher)
    check_step(teacher)


def check_schedule(schedule: NoiseSchedule) -> None:
    """SNR falls from data to noise, and time() inverts the clock on the schedule's own grid."""
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha, sigma = schedule(t)
    say(alpha.shape == sigma.shape == t.shape, "schedule(t) must give alpha and sigma of the shape of t")
    say((alpha >= 0).all() and (sigma >= 0).all(), "alpha and sigma must not be negative")
    say((alpha / sigma)[1:].diff().le(0).all(), "SNR is not monotone: alpha / sigma must fall as t rises from data")
    say(0 < schedule.prior_std < math.inf, "prior_std must be the positive std of the pure-noise input")
    grid = schedule.clock(10)
    say(len(grid) == 10 and grid[0] == 1 and grid.diff().lt(0).all(), "clock(n) must give n falling times from 1 on")
    alpha, sigma = schedule(grid)
    say((alpha / sigma).diff().gt(0).all(), "SNR is not monotone: it must differ between the times of clock(n)")
    back = schedule.time(sigma / alpha)
    say(torch.allclose(back, grid.to(back), atol=1e-6), f"time(sigma / alpha) must invert the clock: {grid} -> {back}")


def check_encode(teacher: Teacher) -> None:
    """One row of condition and one of null condition for each raw one, None included, and the same again."""
    names = teacher.encode([])[0].keys()
    for raw in (some(teacher), some(teacher)[:1], [None] * ROWS, []):
        cond, null = teacher.encode(raw)
        say(cond.keys() == names, "encode of no conditions must give the names of all, with no rows")
        say(cond.keys() == null.keys(), "encode must give the null condition the same names as the condition")
        rows = {len(value) for value in (*cond.values(), *null.values())}
        say(rows <= {len(raw)}, f"encode must give one row per raw condition: {len(raw)} asked, {sorted(rows)} given")
        again = teacher.encode(raw)[0]
        say(all(cond[k].equal(again[k]) for k in cond), "encode must give a label or text the same condition each time")


def check_denoiser(teacher: Teacher) -> None:
    """x_hat has the right shape and type, and guidance does nothing at scale 1 and all at scale 0."""
    (x_t, t), (cond, null) = noisy(teacher), teacher.encode(some(teacher))
    denoiser = cast(Denoiser, teacher.denoiser)
    with torch.no_grad():
        x_hat = denoiser(x_t, t, cond)
        say(x_hat.shape == x_t.shape, f"x_hat must have the shape of x_t, {tuple(x_t.shape)}, not {tuple(x_hat.shape)}")
        say(x_hat.dtype == torch.float32, f"x_hat must be float32, not {x_hat.dtype}; end the adapter with .float()")
        say(x_hat.isfinite().all(), "x_hat is not finite for t in [0.2, 1]; look at c_noise and c_skip")
        same = guided(denoiser, 1.0, cond, null)(x_t, t).equal(x_hat)
        say(same, "guidance of scale 1 must change nothing, but a second call differs; is dropout off (eval())?")
        x_null = denoiser(x_t, t, null)
        near = torch.allclose(guided(denoiser, 0.0, cond, null)(x_t, t), x_null, rtol=1e-3, atol=1e-3)
        say(near, "guidance of scale 0 must give the null condition: rows of one batch must not influence each other")


def check_low_noise(teacher: Teacher) -> None:
    """D -> x as t -> 0: at sigma / alpha = LOW the error on a sample of its own is a few LOW at most."""
    x, cond = own_samples(teacher), teacher.encode(some(teacher))[0]
    t = teacher.schedule.time(torch.full((ROWS,), LOW, dtype=torch.float64)).clamp(0, 1)
    alpha, sigma = scales(teacher.schedule, t, x)
    with torch.no_grad():
        x_hat = teacher.denoiser(diffuse(x, t, teacher.schedule, Rng(0, 0).normal("eps", x)), t.float(), cond)
    error, ratio = float((x_hat - x).square().mean().sqrt()), float((sigma / alpha).max())
    why = "is this the parametrisation (eps, v, flow, edm) and the c_noise that the network was trained with?"
    say(error <= 3 * ratio, f"x_hat must tend to x as t -> 0, but errs by {error:.3g} at noise {ratio:.3g}; {why}")


def check_decode(teacher: Teacher) -> None:
    """Model units become uint8 RGB, one image per sample."""
    images = teacher.decode(own_samples(teacher))
    say(images.dtype == torch.uint8, f"decode must give uint8 images, not {images.dtype}")
    say(images.ndim == 4 and images.shape[:2] == (ROWS, 3), f"decode must give (b, 3, h, w), not {tuple(images.shape)}")


def check_features(teacher: Teacher) -> None:
    """The features of the student network are float32, carry a gradient to x_t, and fit the head."""
    (x_t, t), cond = noisy(teacher), teacher.encode(some(teacher))[0]
    network = cast(Denoiser, student_network(teacher))
    features = network.features(x_t.requires_grad_(), t, cond)
    say(len(features) == ROWS, f"features() must give one row per sample, not {tuple(features.shape)}")
    say(features.dtype == torch.float32, f"features() must be float32, not {features.dtype}")
    try:
        found = logits(teacher.head(), features)
    except RuntimeError as err:
        raise AssertionError(f"head() does not fit features() of shape {tuple(features.shape)}: {err}") from err
    say(found.shape == (ROWS, 1), f"head() must give one logit (b, 1) per sample, not {tuple(found.shape)}")
    say(found.requires_grad, "features() carry no gradient: compute them without no_grad() or detach()")
    (grad,) = torch.autograd.grad(found.sum(), x_t, allow_unused=True)
    say(grad is not None and grad.any(), "features() carry no gradient to x_t: a GAN could teach nothing")


def check_copies(teacher: Teacher) -> None:
    """Generator and critic start as deep copies that share no weights with each other nor with the teacher."""
    (x_t, t), cond = noisy(teacher), teacher.encode(some(teacher))[0]
    networks = [teacher.denoiser, student_network(teacher), student_network(teacher)]
    own = [{p.data_ptr() for p in network.parameters()} for network in networks]
    why = "hand the network in as an argument, and keep it a submodule, so that copies stay copies"
    say(own[1], f"the student network has no parameters to train; {why}")
    say(not (own[0] & own[1] | own[1] & own[2]), f"copies share storage; {why}")
    with torch.no_grad():
        before = [network(x_t, t, cond) for network in networks]
        for p in networks[1].parameters():
            p.mul_(1.1).add_(0.01)
        moved = [not b.equal(network(x_t, t, cond)) for b, network in zip(before, networks, strict=True)]
    say(moved[1], f"the weights of a copy do not change what it computes: it calls another network; {why}")
    say(not moved[0] and not moved[2], f"changing one copy changes another: both call the same network; {why}")


def check_step(teacher: Teacher) -> None:
    """A generator turn moves the generator alone, a whole step is finite and leaves the teacher as it was."""
    d, batch = distillation(teacher), batch_for(teacher)
    real, critic, generator = (weights(m) for m in (teacher.denoiser, d.critic.module, d.generator.module))

    def losses(b: Batch) -> dict[str, Tensor]:
        return d.losses("generator", d.student(b, Rng(0, 0), grad=True), Rng(0, 0))

    d.generator.update(losses, [batch], 0, frozen=[d.critic])
    say(not weights(d.generator.module).equal(generator), "a generator turn does not move the generator: no gradient?")
    say(weights(d.critic.module).equal(critic), "a generator turn moves the critic: the copies share weights")
    log = d.step([batch], 0)
    bad = [name for name, value in log.items() if not value.isfinite()]
    say(not bad, f"one DMD2 step is not finite: {', '.join(bad)}; look at the weighting, and at alpha or sigma = 0")
    say(not weights(d.critic.module).equal(critic), "a critic turn does not move the critic: no gradient?")
    say(weights(teacher.denoiser).equal(real), "a step moves the teacher: it shares weights with a player")


# -- what the checks work with ---------------------------------------------------------------------------------


def some(teacher: Teacher) -> list[Raw]:
    """ROWS conditions of a teacher."""
    return Source(teacher, teacher.denoiser, Ddim()).conditions(ROWS)


def noisy(teacher: Teacher) -> tuple[Tensor, Tensor]:
    """(x_t, t) at times from 0.2 to 1."""
    rng, t, like = Rng(0, 0), torch.linspace(0.2, 1, ROWS), torch.empty(ROWS, *teacher.shape)
    return diffuse(rng.normal("x", like), t, teacher.schedule, rng.normal("eps", like)), t


def own_samples(teacher: Teacher) -> Tensor:
    """Clean samples (ROWS, *shape) as the teacher itself draws them."""
    return Source(teacher, teacher.denoiser, Ddim(10)).latents(some(teacher), 0, range(ROWS))


def student_network(teacher: Teacher) -> nn.Module:
    """What a generator starts from."""
    return deepcopy(teacher.network or teacher.denoiser).requires_grad_(True)


def toy() -> Teacher:
    """A small class-conditional teacher that is exact."""
    return registry.load("teachers", "gmm")(layout="pair", classes=2, width=16, pretrain_steps=0)


def distillation(teacher: Teacher) -> Distillation:
    """A whole distillation of the teacher, every kind of term in it."""
    guidance = 2.0 if teacher.encode([])[0] else 1.0
    terms = {"distribution_matching": {"guidance": guidance}, "gan_generator": {}, "denoising": {}, "gan_critic": {}}
    parts = {"student": {"lr": 1e-3}, "critic": {"lr": 1e-3}, "sampler": {"use": "heun"}, "losses": terms}
    more = {"teacher": {"use": "under-test"}, "data": {"real": {"use": "none"}}, "run": {"steps": 9, "batch": ROWS}}
    with registry.override("teachers", "under-test", lambda: teacher):
        return build.distillation(Recipe.model_validate({**parts, **more}), torch.device("cpu"))


def batch_for(teacher: Teacher) -> Batch:
    """One micro-batch, its real data the teacher's own samples."""
    cond, null = teacher.encode(some(teacher))
    return Batch(slice(0, ROWS), ROWS, cond, null, own_samples(teacher), cond)


def weights(module: nn.Module) -> Tensor:
    """All parameters of a module as one vector."""
    return torch.cat([p.detach().flatten().float() for p in module.parameters()])
