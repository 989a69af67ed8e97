"""What a training cycle costs beyond the network passes it cannot do without.

    python benchmarks/step.py [--recipe digits] [--cycles 30] [--threads 1] [KEY=VALUE ...] [--json FILE]

A cycle is one generator update and `ttur` critic updates. Three things are timed in turn in one process: the
engine's cycle, the bare passes (forward and backward of the teacher's own modules in plain PyTorch, with no
loss, optimiser or random number), and a hand-written DMD2 loop. `ratio` is the median of cycle / bare over the
pairs; `passes` compares what forward hooks count in the engine's cycle with what the recipe needs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F

from dmd2cli.core.noise import diffuse
from dmd2cli.engine import runtime
from dmd2cli.engine.distill import DistillJob, job
from dmd2cli.recipe import Recipe, load


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


def timed(action, device: torch.device) -> float:
    """Seconds of one call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(recipe: Recipe, cycles: int) -> dict:
    """The result of the benchmark; every cycle is timed next to the passes it is compared with."""
    device = runtime.device(recipe.run.device)
    torch.set_default_device(device)
    work = job(recipe, device)
    passes, hand, step = Passes(work), ByHand(work) if "joint_critic" in recipe.losses else None, 0
    found = counted(work)

    def cycle() -> None:
        nonlocal step
        for _ in range(recipe.ttur):
            work.step(step)
            step += 1

    seconds = {"cycle": [], "bare": [], "hand": []}
    for i in range(cycles + 3):
        for name, action in (("cycle", cycle), ("bare", passes), ("hand", hand)):
            if action is not None and (elapsed := timed(action, device)) and i >= 3:
                seconds[name].append(elapsed)
    ratios = [a / b for a, b in zip(seconds["cycle"], seconds["bare"], strict=True)]
    medians = {f"{k}_s": statistics.median(v) for k, v in seconds.items() if v}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
        **medians,
        "passes": {"counted": named(found), "needed": named(needed(recipe))},
        "cycles": cycles,
        "batch": recipe.run.batch,
        "ttur": recipe.ttur,
        "hardware": name,
        "torch": torch.__version__,
    }


def named(rows: Counter) -> dict[str, int]:
    """{"fake encoder": rows, ...}, sorted."""
    return {" ".join(key): rows[key] for key in sorted(rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--cycles", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_intermixed_args()
    recipe = load(args.recipe, args.overrides)
    torch.set_num_threads(args.threads)
    found = measure(recipe, args.cycles)
    print("rows per cycle       counted  needed")
    for name, rows in found["passes"]["needed"].items():
        print(f"{name:20} {found['passes']['counted'].get(name, 0):7} {rows:7}")
    hand = f"   hand-written {found['hand_s']:.4f} s" if "hand_s" in found else ""
    print(f"cycle {found['cycle_s']:.4f} s   bare {found['bare_s']:.4f} s{hand}   ratio {found['ratio']:.3f}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
