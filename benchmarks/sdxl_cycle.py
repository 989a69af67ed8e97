"""A cycle of SDXL, its seconds, and the bare passes that it needs: what benchmarks/sdxl.py runs anywhere."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from by_hand import Passes
from measuring import spent as spent

from dmd2cli.adapters import View
from dmd2cli.core.random import Rng
from dmd2cli.engine.distill import DistillJob, job
from dmd2cli.recipe import Recipe


def cycles_of(work: DistillJob, number: int) -> range:
    """The steps of a cycle."""
    return range(number * work.recipe.ttur, (number + 1) * work.recipe.ttur)


def cycle(work: DistillJob, number: int) -> None:
    for step in cycles_of(work, number):
        work.step(step)


def calls(work: DistillJob, step: int) -> int:
    """Of the student without gradient, before the one that is trained: backward simulation."""
    return work.distillation.inputs.call(Rng(work.recipe.run.seed, step).stream("student"))


class Bare(Passes):
    """The bare passes of a cycle on the networks of a job, a micro-batch at a time."""

    def __init__(self, work: DistillJob) -> None:
        nets, source = work.distillation.nets, work.distillation.teacher
        batches = work.loader(0, source)
        self.work, self.batches, rows = work, len(batches), len(batches[0])
        self.generator, self.fake, self.head, self.real = nets.generator, nets.fake, nets.head, nets.real
        self.gan, self.joint, self.apart = True, False, True
        self.x, self.t, self.cond = torch.randn(rows, *source.shape), torch.rand(rows), batches[0].cond
        self.x2, self.t2 = torch.cat([self.x] * 2), torch.cat([self.t] * 2)
        self.cond2 = {name: torch.cat([value, value]) for name, value in self.cond.items()}
        self.ones, self.one = torch.ones_like(self.x), torch.ones(rows, 1)
        self.real_args = (self.x2, self.t2, self.cond2)

    def __call__(self, number: int = 0) -> None:
        for turn, step in enumerate(cycles_of(self.work, number)):
            for _ in range(self.batches):
                for _ in range(calls(self.work, step)):
                    self.sample()
                self.sample() if turn else self.generator_turn()
            for _ in range(self.batches):
                self.critic_turn()
            for net in (self.generator, self.fake, self.head):
                net.zero_grad(set_to_none=True)


@contextmanager
def counted(work: DistillJob) -> Iterator[Counter]:
    """Rows through the first and the last layer of every UNet of a job, of those that share one together."""
    nets, rows, hooks = work.distillation.nets, Counter(), []
    bases = [net.adapters.base if isinstance(net, View) else net for net in (nets.generator, nets.real, nets.fake)]
    for base in dict.fromkeys(bases):
        for part, layer in (("encoder", base.backbone.unet.conv_in), ("decoder", base.backbone.unet.conv_out)):
            hook = lambda _, args, __, key=part: rows.update({key: len(args[0])})  # noqa: E731
            hooks.append(layer.register_forward_hook(hook))
    yield rows
    for hook in hooks:
        hook.remove()


def overhead(recipe: Recipe, device: torch.device, cycles: int) -> dict:
    """Each cycle beside its bare passes, which have networks of their own: no adapters are switched in them."""
    work, plain = job(recipe, device), job(recipe.model_copy(update={"shared_base": False}), device)
    with device:
        bare, found = Bare(plain), {"cycle": list[float](), "bare": list[float]()}
    with counted(work) as ours:
        cycle(work, 0)
    with counted(plain) as needed:
        bare(0)
    for number in range(1, cycles + 2):
        pair = {"cycle": lambda n=number: cycle(work, n), "bare": lambda n=number: bare(n)}
        for name in sorted(pair, reverse=bool(number % 2)):
            elapsed = spent(pair[name], device)
            if number >= 2:
                found[name].append(elapsed)
    ratios = [a / b for a, b in zip(found["cycle"], found["bare"], strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)[::2] if len(ratios) > 1 else ratios * 2
    medians = {f"{name}_s": statistics.median(values) for name, values in found.items()}
    passes = {"counted": dict(ours), "needed": dict(needed)}
    return {"ratio": statistics.median(ratios), "ratio_quartiles": quartiles, **medians, "passes": passes}
