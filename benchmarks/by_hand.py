"""The passes of a cycle as one would write them for the digits recipes: the check of what benchmarks/step.py counts."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy

import torch
import torch.nn.functional as F

from dmd2cli.core.noise import diffuse
from dmd2cli.engine.distill import DistillJob
from dmd2cli.recipe import Recipe

TERMS = {"distribution_matching", "gan_generator", "denoising", "gan_critic", "joint_critic"}


def known(work: DistillJob) -> bool:
    """Whether this file knows what a cycle of it needs: one-step students of backbones with an input and an output."""
    recipe, net = work.recipe, work.distillation.nets.generator
    terms = all(name in TERMS and not term.options.get("r1") for name, term in recipe.losses.items())
    plain = len(recipe.student.times) == 1 and recipe.turns != "alternate" and not recipe.critic.warmup
    head, guidance = recipe.critic.head, recipe.student.guidance
    usual = guidance is None and head.reads == "critic" and head.depths is None
    parts = all(hasattr(getattr(net, "backbone", None), name) for name in ("input", "output"))
    whole = recipe.run.micro_batch in (None, recipe.run.batch) and recipe.data.pairs is None
    return terms and plain and usual and parts and whole and len(work.phases) == 1


def needed(recipe: Recipe) -> Counter:
    """Rows through each part of each network per cycle, for one-step recipes of the terms known here."""
    b, ttur, terms = recipe.run.batch, recipe.ttur, recipe.losses
    guided = terms["distribution_matching"].options.get("guidance", 1.0) != 1.0
    rows = Counter({("generator", "encoder"): ttur * b, ("generator", "decoder"): ttur * b})
    rows += Counter({("real", part): b * (2 if guided else 1) for part in ("encoder", "decoder")})
    rows += Counter({("fake", "encoder"): b, ("fake", "decoder"): b})                      # in the DM gradient
    rows["fake", "encoder"] += b * ("gan_generator" in terms)
    rows["fake", "decoder"] += b * ttur                                                     # denoising
    joint, apart = "joint_critic" in terms, "gan_critic" in terms
    rows["fake", "encoder"] += ttur * b * (2 if joint else 3 if apart else 1)
    return rows


def counted(work: DistillJob) -> Counter:
    """The same from forward hooks on the first and the last layer of every backbone, over one real cycle."""
    nets, rows, hooks = work.distillation.nets, Counter(), []
    for name in ("generator", "real", "fake"):
        backbone = getattr(nets, name).backbone
        for part, layer in (("encoder", backbone.input), ("decoder", backbone.output)):
            hook = lambda _, args, __, key=(name, part): rows.update({key: len(args[0])})  # noqa: E731
            hooks.append(layer.register_forward_hook(hook))
    for step in range(work.recipe.ttur):
        work.step(step)
    for hook in hooks:
        hook.remove()
    return rows


class Passes:
    """The bare passes of a cycle, on copies of the networks: nothing but forward and backward."""

    def __init__(self, work: DistillJob) -> None:
        d, recipe = work.distillation, work.recipe
        self.work, self.ttur, self.gan = work, recipe.ttur, "gan_generator" in recipe.losses
        self.joint, self.apart = "joint_critic" in recipe.losses, "gan_critic" in recipe.losses
        self.generator, self.fake, self.head = (deepcopy(m) for m in (d.nets.generator, d.nets.fake, d.nets.head))
        self.real, b = d.nets.real, recipe.run.batch
        batch = work.loader(0, d.teacher)[0]
        self.x, self.t, self.cond = torch.randn(b, *d.teacher.shape), torch.rand(b), batch.cond
        self.x2, self.t2 = torch.cat([self.x] * 2), torch.cat([self.t] * 2)
        self.cond2 = {k: torch.cat([v, v]) for k, v in self.cond.items()}
        self.ones, self.one = torch.ones_like(self.x), torch.ones(b, 1)
        guided = recipe.losses["distribution_matching"].options.get("guidance", 1.0) != 1.0
        self.real_args = (self.x2, self.t2, self.cond2) if guided else (self.x, self.t, self.cond)

    def __call__(self) -> None:
        for turn in range(self.ttur):
            self.generator_turn() if turn == 0 else self.sample()
            self.critic_turn()
        for net in (self.generator, self.fake, self.head):
            net.zero_grad(set_to_none=True)

    def sample(self) -> None:
        with torch.no_grad():
            self.generator(self.x, self.t, self.cond)

    def generator_turn(self) -> None:
        self.fake.requires_grad_(False), self.head.requires_grad_(False)
        x = self.generator(self.x, self.t, self.cond)
        with torch.no_grad():
            self.real(*self.real_args)
            self.fake(self.x, self.t, self.cond)
        seen = x.detach().requires_grad_()
        if self.gan:
            self.head(self.fake.features(seen, self.t, self.cond)).backward(self.one)
        x.backward(self.ones)
        self.fake.requires_grad_(True), self.head.requires_grad_(True)

    def critic_turn(self) -> None:
        if self.joint:
            x_hat, h = self.fake.joint(self.x2, self.t2, self.cond2, len(self.x))
            torch.autograd.backward([x_hat, self.head(h)], [self.ones, torch.cat([self.one] * 2)])
            return
        self.fake(self.x, self.t, self.cond).backward(self.ones)
        if self.apart:
            self.head(self.fake.features(self.x2, self.t2, self.cond2)).backward(torch.cat([self.one] * 2))


class ByHand(Passes):
    """A DMD2 loop as one would write it in a script, for the joint critic: the check that `bare` is not slow."""

    def __init__(self, work: DistillJob) -> None:
        super().__init__(work)
        self.schedule, self.shape = work.distillation.nets.schedule, self.x.shape
        critic = [*self.fake.parameters(), *self.head.parameters()]
        self.g_opt = torch.optim.AdamW(self.generator.parameters(), 1e-4)
        self.d_opt = torch.optim.AdamW(critic, 1e-4)

    def __call__(self) -> None:
        for turn in range(self.ttur):
            z = self.schedule.prior_std * torch.randn(self.shape)
            with torch.set_grad_enabled(turn == 0):
                x = self.generator(z, torch.ones(len(z)), self.cond)
            if turn == 0:
                self.generator_loss(x).backward()
                self.g_opt.step()
                self.g_opt.zero_grad()
            self.d_opt.zero_grad()
            self.critic_loss(x.detach()).backward()
            self.d_opt.step()

    def generator_loss(self, x: torch.Tensor) -> torch.Tensor:
        t = 0.02 + 0.96 * torch.rand(len(x))
        with torch.no_grad():
            x_t = diffuse(x, t, self.schedule, torch.randn_like(x))
            real, fake = self.real(x_t, t, self.cond), self.fake(x_t, t, self.cond)
            grad = (fake - real) / (x - real).abs().mean((1, 2, 3), keepdim=True)
        loss = 0.5 * F.mse_loss(x, (x - grad).detach())
        if self.gan:
            t = torch.rand(len(x))
            noisy = diffuse(x, t, self.schedule, torch.randn_like(x))
            loss = loss + 0.01 * F.softplus(-self.head(self.fake.features(noisy, t, self.cond))).mean()
        return loss

    def critic_loss(self, x: torch.Tensor) -> torch.Tensor:
        t = torch.rand(2 * len(x))
        both = torch.cat([x, self.x])
        noisy = diffuse(both, t, self.schedule, torch.randn_like(both))
        x_hat, h = self.fake.joint(noisy, t, self.cond2, len(x))
        sigma = self.schedule(t[: len(x)])[1].float().view(-1, 1, 1, 1)
        fake, real = self.head(h).chunk(2)
        gan = F.softplus(fake).mean() + F.softplus(-real).mean()
        return ((sigma**-2 + 1.8) * (x_hat - x) ** 2).mean() + 0.3 * gan
