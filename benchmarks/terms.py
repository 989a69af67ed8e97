"""What each optional term adds to a training cycle, beside the network passes that it cannot do without.

    python benchmarks/terms.py [NAME ...] [--cycles 12] [--threads 1] [--json FILE]

For every option, cycles of the digits recipe with and without it are timed in turn in one process, and so are the
bare passes that it adds: forward and backward of the networks in plain PyTorch, without losses, random numbers or
optimisers. `added` is the median difference of a cycle, `bare` the passes, and both are also given as shares of a
cycle without the option. A cycle is one generator update and five critic updates.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from step import timed

from dmd2cli import registry
from dmd2cli.engine.distill import DistillJob, job
from dmd2cli.engine.pairs import make, maker
from dmd2cli.recipe import load

CPU = torch.device("cpu")
BASE = ("losses.joint_critic=null", "losses.denoising.weight=1.0", "losses.gan_critic.weight=1.0")
"""The released pair of critic terms, on which every option is laid."""


class Passes:
    """Forward and backward of a job's networks at the shapes of its batch, and nothing else."""

    def __init__(self, work: DistillJob) -> None:
        d, b = work.distillation, work.recipe.run.batch
        self.nets, self.ttur, self.b = d.nets, work.recipe.ttur, b
        self.x, self.t = torch.randn(b, *d.teacher.shape), torch.rand(b)
        self.cond = work.loader(0, d.teacher)[0].cond
        self.classifier = registry.load("rewards", "digits-confidence")()

    def generator(self, grad: bool, times: int = 1) -> None:
        """Forward of a batch, and its backward."""
        for _ in range(times):
            with torch.set_grad_enabled(grad):
                x = self.nets.generator(self.x, self.t, self.cond)
            if grad:
                x.backward(torch.ones_like(x))

    def judge(self, net: str, grad: bool, rows: int = 1, second: bool = False) -> None:
        """Encoder and head; with a gradient in x, and a second one through that, if asked."""
        x = self.x.repeat(rows, 1, 1, 1).requires_grad_(grad)
        cond = {k: v.repeat(rows, 1) for k, v in self.cond.items()}
        with torch.set_grad_enabled(grad):
            features = getattr(self.nets, net).features(x, self.t.repeat(rows), cond)
            logits = self.nets.head(features)
        if second:
            (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
            slope.square().sum().backward()
        elif grad:
            logits.sum().backward()

    def teacher(self) -> None:
        with torch.no_grad():
            self.nets.real(self.x, self.t, self.cond)

    def reward(self) -> None:
        x = self.x.clone().requires_grad_()
        self.classifier(x.expand(-1, 3, -1, -1), [i % 10 for i in range(self.b)]).sum().backward()


@dataclass(frozen=True)
class Option:
    """What is laid over the recipe, and the bare passes of one cycle that it adds."""

    overrides: tuple[str, ...]
    bare: Callable[[Passes], None]


def nothing(p: Passes) -> None:
    """No pass through a network."""


def lag(p: Passes) -> None:
    """Six samples, five critic updates, two denoising passes, once per cycle."""
    p.generator(False, 6)
    for _ in range(5):
        x = p.nets.fake(p.x, p.t, p.cond)
        x.backward(torch.ones_like(x))
        p.judge("fake", True, 2)
    for _ in range(2):
        with torch.no_grad():
            p.nets.fake(p.x, p.t, p.cond)


def every_step(action: Callable[[Passes], None]) -> Callable[[Passes], None]:
    """The passes of one step, as often as there are steps in a cycle."""

    def cycle(p: Passes) -> None:
        for _ in range(p.ttur):
            action(p)

    return cycle


OPTIONS = {
    "regression, L2": Option(
        ("losses.regression={{weight: 0.25, distance: l2}}", "data.pairs={{use: pairs, path: {pairs}}}"),
        lambda p: p.generator(True),
    ),
    "guidance": Option(("losses.distribution_matching.guidance=3.0",), Passes.teacher),
    "divergence": Option(("losses.distribution_matching.divergence=hellinger",), lambda p: p.judge("fake", False)),
    "R1": Option(("losses.gan_critic.r1=1.0",), every_step(lambda p: p.judge("fake", True, second=True))),
    "R1, approximate": Option(
        ("losses.gan_critic.r1=1.0", "losses.gan_critic.r1_std=0.05"), every_step(lambda p: p.judge("fake", True))
    ),
    "reward": Option(("losses.reward.weight=0.01", "losses.reward.model=digits-confidence"), Passes.reward),
    "diversity": Option(("losses.diversity.weight=0.1",), nothing),
    "weight: auto": Option(
        ("losses.gan_generator.weight=auto", "losses.gan_generator.auto_updates=100000"),
        lambda p: p.judge("fake", True),
    ),
    "two steps": Option(
        ("student.times=[1.0, 0.5]",), every_step(lambda p: p.generator(False, torch.randint(2, ()).item()))
    ),
    "scale as a condition": Option(("student.guidance.min=1", "student.guidance.max=5"), Passes.teacher),
    "lag, every cycle": Option(("critic.lag_every=5",), lag),
}


def walk(work: DistillJob, steps: range) -> None:
    """Train some steps."""
    for step in steps:
        work.step(step)


def measure(name: str, cycles: int, pairs: str) -> dict:
    """Seconds of a cycle without and with an option, and of its bare passes."""
    option = OPTIONS[name]
    plain, more = (
        job(load("digits", [*BASE, *(o.format(pairs=pairs) for o in overrides)]), CPU)
        for overrides in ((), option.overrides)
    )
    passes, seconds = Passes(more), {"without": [], "with": [], "bare": []}
    passes.nets.fake.requires_grad_(True)
    for i in range(cycles + 2):
        steps = range(5 * i, 5 * i + 5)
        actions = {"without": partial(walk, plain, steps), "with": partial(walk, more, steps)}
        for key, action in {**actions, "bare": partial(option.bare, passes)}.items():
            found = timed(action, CPU)
            seconds[key] += [found] if i >= 2 else []
    added = statistics.median(b - a for a, b in zip(seconds["without"], seconds["with"], strict=True))
    without, bare = statistics.median(seconds["without"]), statistics.mean(seconds["bare"])
    return {"without_s": without, "added_s": added, "bare_s": bare, "added": added / without, "bare": bare / without}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*OPTIONS, []], help="by default all")
    parser.add_argument("--cycles", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        recipe = load("digits")
        make(maker(recipe, CPU, 0, None), Path(folder) / "pairs", range(500), 500)
        print(f"{'option':22} {'added':>8} {'bare':>8}   shares of a cycle of digits, batch {recipe.run.batch}")
        for name in args.names or OPTIONS:
            rows[name] = measure(name, args.cycles, str(Path(folder) / "pairs"))
            print(f"{name:22} {rows[name]['added']:8.3f} {rows[name]['bare']:8.3f}", flush=True)
    if args.json:
        hardware = f"CPU, {args.threads} threads"
        found = {"rows": rows, "cycles": args.cycles, "hardware": hardware, "torch": torch.__version__}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
