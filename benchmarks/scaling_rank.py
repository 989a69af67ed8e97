"""One rank of benchmarks/scaling.py, started by torchrun: it holds the jobs of its group, and steps when it is told."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import TCPStore

from dmd2cli.engine import runtime
from dmd2cli.engine.distill import DistillJob, job
from dmd2cli.engine.parallel import World, joined, leave
from dmd2cli.engine.share import share
from dmd2cli.recipe import Recipe, load

PATIENCE = timedelta(hours=2)
"""For the turns of the others."""


class Case:
    """A job and the steps that it has done."""

    def __init__(self, recipe: Recipe, device: torch.device, world: World) -> None:
        self.world, self.device, self.done = world, device, 0
        self.job: DistillJob = job(recipe, device, world)

    def block(self, cycles: int) -> dict[str, float]:
        """Seconds of some cycles, as the trainer makes them: each step after asking whether a rank wants to stop."""
        if dist.is_initialized():
            dist.barrier()
        self.wait()
        steps = range(self.done, self.done + cycles * self.job.cycle)
        wall, cpu = time.perf_counter(), time.process_time()
        for step in steps:
            self.world.any(False)
            self.job.step(step)
        self.wait()
        self.done = steps.stop
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "steps": len(steps)}

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def main() -> None:
    asked = json.loads(sys.argv[1])
    store, ranks = TCPStore("127.0.0.1", asked["port"], is_master=False, timeout=PATIENCE), asked["ranks"]
    recipes = {case["name"]: load(asked["recipe"], case["overrides"]) for case in asked["cases"]}
    torch.set_num_threads(asked["threads"])
    run = next(iter(recipes.values())).run
    with joined(run) as world:
        device = runtime.device(share().device(run.device))
        runtime.set_tf32(run)
        apart = {case["name"] for case in asked["cases"] if case["apart"]}
        cases = {
            name: Case(recipe, device, World() if name in apart else replace(world)) for name, recipe in recipes.items()
        }
        turn = 0
        while True:
            turn += 1
            store.wait([f"turn/{ranks}/{turn}"], PATIENCE)
            if (order := json.loads(store.get(f"turn/{ranks}/{turn}"))) is None:
                break
            found = cases[order["case"]].block(order["cycles"])
            store.set(f"done/{ranks}/{turn}/{world.rank}", json.dumps({**found, "device": str(device)}))


if __name__ == "__main__":
    main()
    leave(0)
