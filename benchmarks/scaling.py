"""Steps per second of one rank and of several, each with one CPU thread or one GPU, in every parallel mode.

    python benchmarks/scaling.py [RECIPE] [KEY=VALUE ...] [--ranks 1,2] [--modes replicate,shard] [--json FILE]

`strong`: all ranks together have the batch of the recipe; `weak`: each has as much. `apart`: as many runs of one rank
at once, which say nothing to each other: what the machine allows. The speedup is that in samples per second over one
rank. All groups of ranks are started at once and wait; blocks of cycles are then taken in turn, one group at a time, so
that whatever else the machine does falls on all alike, and speedups are those of blocks of one round. On CPUs there is
a second one, `by CPU time`: the CPU seconds that one rank spends per sample over those of the busiest of the ranks.
Other programs hardly change it; it leaves out what ranks wait for each other, so that on a machine of one's own the
true one lies between the two.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import torch
from measuring import Machine, described, ended, hardware, shown, spread, tell
from torch.distributed import TCPStore

from dmd2cli.engine import runtime
from dmd2cli.engine.parallel import World
from dmd2cli.errors import UserError
from dmd2cli.recipe import Recipe, load

MODES = ("apart", "replicate", "shard", "hybrid")
SENSELESS = ("apart", "strong")
RANK = Path(__file__).with_name("scaling_rank.py")
FEWEST = 3
"""Rounds, even if the time is over."""
START = 600.0
"""Seconds within which a group has built its networks and done its first cycle."""


@dataclass(frozen=True)
class Case:
    """What is measured: so many ranks, in one mode, with one batch."""

    ranks: int
    mode: str = "auto"
    kind: str = "strong"

    @property
    def name(self) -> str:
        return "1 rank" if self.ranks == 1 else f"{self.ranks} {self.mode}, {self.kind}"

    def batch(self, recipe: Recipe) -> int:
        """Of a run: of all its ranks, or of the one."""
        return recipe.run.batch * (self.ranks if self.kind == "weak" and self.mode != "apart" else 1)


@dataclass
class Group:
    """Some ranks under one torchrun, with their jobs."""

    store: TCPStore
    ranks: int
    process: subprocess.Popen
    log: Path
    turn: int = 0
    last: dict[str, str] = field(default_factory=dict)

    def step(self, case: Case, cycles: int, patience: float) -> dict[str, float]:
        """Seconds per step of a block: of the clock, and of the CPU by the busiest rank and by all."""
        self.turn += 1
        self.store.set(f"turn/{self.ranks}/{self.turn}", json.dumps({"case": case.name, "cycles": cycles}))
        keys, end = [f"done/{self.ranks}/{self.turn}/{r}" for r in range(self.ranks)], time.monotonic() + patience
        while not self.store.check(keys):
            if self.process.poll() is not None or time.monotonic() > end:
                raise UserError(f"{case.name}: the ranks ended or do not answer: {reason(self.log)}")
            time.sleep(0.01)
        found = [json.loads(self.store.get(key)) for key in keys]
        steps, cpu = found[0]["steps"], [one["cpu"] for one in found]
        wall = max(one["wall"] for one in found)
        return {"wall": wall / steps, "cpu": max(cpu) / steps, "cpu_all": sum(cpu) / steps}

    def end(self) -> None:
        """Let the ranks go."""
        self.store.set(f"turn/{self.ranks}/{self.turn + 1}", "null")
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.wait()


def reason(log: Path) -> str:
    """The last line of what ranks said that tells of an error."""
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    said = [line for line in lines if "Error" in line and "ChildFailedError" not in line]
    return (said or lines or ["nothing was said"])[-1]


def start(args: argparse.Namespace, ranks: int, cases: list[Case], recipe: Recipe, store: TCPStore, log: Path) -> Group:
    """Start the ranks of some cases."""
    made = [{"name": c.name, "apart": c.mode == "apart", "overrides": overrides(args, c, recipe)} for c in cases]
    asked = {"port": store.port, "ranks": ranks, "recipe": args.recipe, "cases": made, "threads": args.threads}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    with log.open("w") as out:
        process = subprocess.Popen([*torchrun, str(RANK), json.dumps(asked)], env=environment, stdout=out, stderr=out)
    return Group(store, ranks, process, log)


def overrides(args: argparse.Namespace, case: Case, recipe: Recipe) -> list[str]:
    """Over the recipe, for a case."""
    shards = [f"run.shard_size={case.ranks // 2}"] if case.mode == "hybrid" else []
    fixed = ["run.steps=1000000", "run.log_every=1000000", "health.every=null", f"run.batch={case.batch(recipe)}"]
    return [*args.overrides, *fixed, f"run.parallel={'auto' if case.mode == 'apart' else case.mode}", *shards]


def cases(args: argparse.Namespace) -> list[Case]:
    """All that are asked for, in order; hybrid where there are ranks enough."""
    found = []
    for ranks in args.ranks:
        modes = [mode for mode in args.modes if ranks > 1 and (mode != "hybrid" or (ranks >= 4 and ranks % 2 == 0))]
        found += [Case(ranks, mode, kind) for mode in modes for kind in args.kinds if (mode, kind) != SENSELESS]
    return [Case(1), *found]


def measure(args: argparse.Namespace) -> dict:
    """The result of the benchmark."""
    recipe, every = load(args.recipe, args.overrides), cases(args)
    device, rounds, machine = runtime.device(recipe.run.device), list[dict[str, dict[str, float]]](), Machine()
    if device.type == "cuda" and torch.cuda.device_count() < max(args.ranks):
        raise UserError(f"--ranks {max(args.ranks)}: there are {torch.cuda.device_count()} GPUs, one for each rank")
    for case in every:
        World(size=case.ranks).rows(case.batch(recipe))              # refused now, not after the start
    store = TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(hours=2), wait_for_workers=False)
    with tempfile.TemporaryDirectory() as folder:
        groups = dict[int, Group]()
        try:
            for n in sorted({case.ranks for case in every}):
                mine = [case for case in every if case.ranks == n]
                groups[n] = start(args, n, mine, recipe, store, Path(folder) / f"{n}.log")
            for case in every:                                       # compilation, and the optimisers' first steps
                groups[case.ranks].step(case, 2, START)
            ends = time.monotonic() + args.seconds
            while len(rounds) < args.rounds and (len(rounds) < FEWEST or time.monotonic() < ends):
                order = every if len(rounds) % 2 == 0 else every[::-1]
                rounds.append({case.name: groups[case.ranks].step(case, args.cycles, START) for case in order})
        finally:
            for group in groups.values():
                group.end()
    return {
        "recipe": args.recipe, "overrides": args.overrides, "batch": recipe.run.batch, "rounds": len(rounds),
        "cycles": args.cycles, "threads": args.threads, "hardware": hardware(device, args.threads),
        "torch": torch.__version__,
        "load": os.getloadavg()[0], "busy": machine.busy(), "device": device.type,
        "cases": {case.name: row(case, every[0], rounds) for case in every},
    }  # fmt: skip


def row(case: Case, one: Case, rounds: list[dict]) -> dict:
    """What the rounds say of a case."""
    mine, first = [found[case.name] for found in rounds], [found[one.name] for found in rounds]
    more = case.ranks if case.kind == "weak" else 1
    gains = {key: [more * b[key] / a[key] for a, b in zip(mine, first, strict=True)] for key in ("wall", "cpu")}
    return {
        "ranks": case.ranks, "mode": case.mode, "kind": case.kind,
        "steps_per_s": spread([1 / a["wall"] for a in mine]), "speedup": spread(gains["wall"]),
        "speedup_by_cpu": spread(gains["cpu"]), "cpu_s_per_step": statistics.median(a["cpu"] for a in mine),
        "cpu_s_per_step_all": statistics.median(a["cpu_all"] for a in mine),
    }  # fmt: skip


def table(found: dict) -> str:
    """The result for people."""
    busy = "" if found["busy"] is None else f", cores {found['busy']:.0%} busy"
    head = f"{found['recipe']} {' '.join(found['overrides'])}".strip()
    lines = [
        f"{head}, batch {found['batch']}, {found['hardware']}, torch {found['torch']}; "
        f"{found['rounds']} rounds of {found['cycles']} cycles{busy}, load {found['load']:.1f}",
        f"{'':22} {'steps/s':>26} {'speedup':>26} {'by CPU time':>26} {'CPU ms/step of all':>19}",
    ]
    for name, one in found["cases"].items():
        parts = [shown(one["steps_per_s"], ".2f"), shown(one["speedup"], ".2f")]
        parts.append(shown(one["speedup_by_cpu"], ".2f") if found["device"] == "cpu" else "-")
        speeds = "".join(f" {part:>26}" for part in parts)
        lines.append(f"{name:22}{speeds} {1e3 * one['cpu_s_per_step_all']:19.1f}")
    return "\n".join([*lines, "median (quartiles) over rounds; strong: one batch shared out, weak: one batch per rank"])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = described(__doc__)
    made.add_argument("recipe", nargs="?", default="digits")
    made.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    made.add_argument("--ranks", type=numbers, default=[1, 2], metavar="N,N", help="1 is always measured")
    made.add_argument("--modes", type=lambda text: text.split(","), default=list(MODES), help=f"of {', '.join(MODES)}")
    made.add_argument("--kinds", type=lambda text: text.split(","), default=["strong", "weak"])
    made.add_argument("--cycles", type=int, default=2, help="of a block")
    made.add_argument("--rounds", type=int, default=12, help="at most")
    made.add_argument("--seconds", type=float, default=120, help="begin no further round then")
    made.add_argument("--threads", type=int, default=1, help="of a rank")
    made.add_argument("--tiny", action="store_true", help="a batch of 8, and three rounds: does it run at all")
    return made


def numbers(text: str) -> list[int]:
    return sorted({int(part) for part in text.split(",")})


def main() -> None:
    args = parser().parse_intermixed_args()
    if "=" in args.recipe:                                           # no recipe is named: it is an override
        args.recipe, args.overrides = "digits", [args.recipe, *args.overrides]
    if unknown := sorted({*args.modes} - {*MODES}) or sorted({*args.kinds} - {"strong", "weak"}):
        raise UserError(f"--modes or --kinds: {unknown[0]} is none of them; see --help")
    if args.tiny:
        args.overrides, args.rounds, args.cycles = ["run.batch=8", *args.overrides], FEWEST, 1
    found = measure(args)
    tell(found, table, args.json)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))           # the ranks are let go on the way out
    ended(main)
