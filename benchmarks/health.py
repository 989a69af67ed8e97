"""What a run's signals of health cost, as shares of its training at the recipe's intervals.

    python benchmarks/health.py [RECIPE] [KEY=VALUE ...] [--repeats 5] [--json FILE]

Each kind of measurement is made once, which draws the teacher's images and reads what a metric needs, and then timed:
its median over the seconds of a step, over the steps between two. CPU seconds of one thread, or of the clock on a GPU.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from measuring import Machine, chosen, described, ended, hardware, spent, tell

from dmd2cli.engine import runtime
from dmd2cli.engine.distill import DistillJob, job
from dmd2cli.engine.lag import critic_lag
from dmd2cli.recipe import Recipe, load
from dmd2cli.recipe_health import lag_every

GOAL = 0.02
"""Of the training, all together."""
FIRST = 10
"""Steps before anything is timed."""


def measurements(made: DistillJob, step: int) -> dict[str, tuple[int, Callable[[], object]]]:
    """Name -> (steps between two, how one is made)."""
    recipe, found, batches = made.recipe, {}, made.batches(step)
    health = made.checkup.health if made.checkup is not None else None
    if health is not None:
        found["signals"] = (health.every, lambda: health.signals(made.source, batches, step))
    if (every := lag_every(recipe.critic.lag_every, recipe.run.steps)) is not None:
        found["critic's lag"] = (every, lambda: critic_lag(made.distillation, batches, step))
    if made.validator is not None:
        averages = recipe.student.ema_halflife_images is not None
        every = made.validator.asked.every or recipe.run.save_every
        found["validation"] = (every, lambda: made.validator.measured(made.source, averages, step))
    return found


def measure(recipe: Recipe, device: torch.device, repeats: int) -> dict:
    """Seconds of a step, and of each kind of measurement, first and later."""
    made = job(recipe, device)
    check, made.checkup = made.checkup, None                         # the steps alone
    for step in range(FIRST):
        made.step(step)
    cycles = range(FIRST, FIRST + repeats * made.cycle)
    step_s = spent(lambda: [made.step(step) for step in cycles], device) / len(cycles)
    made.checkup, rows = check, {}
    for name, (every, action) in measurements(made, cycles.stop).items():
        first = spent(action, device)
        later = statistics.median(spent(action, device) for _ in range(repeats))
        rows[name] = {"every": every, "first_s": first, "s": later, "steps": later / step_s}
        rows[name]["share"] = later / step_s / every
    return {"step_s": step_s, "rows": rows, "share": sum(row["share"] for row in rows.values())}


def table(found: dict) -> str:
    """The result for people."""
    lines = [f"{found['recipe']}, {found['hardware']}, torch {found['torch']}; a step {found['step_s']:.4f} s"]
    lines.append(f"{'':14} {'every':>6} {'first s':>9} {'s':>9} {'in steps':>9} {'share':>9}")
    for name, row in found["rows"].items():
        numbers = f"{row['first_s']:9.3f} {row['s']:9.3f} {row['steps']:9.2f} {row['share']:9.4f}"
        lines.append(f"{name:14} {row['every']:6} {numbers}")
    return "\n".join([*lines, f"all together {found['share']:.4f} (wanted: at most {GOAL})"])


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("words", nargs="*", metavar="RECIPE KEY=VALUE", help="default: digits")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="a batch of 8, once: does it run at all")
    args = parser.parse_intermixed_args()
    name, overrides = chosen(args.words)
    if args.tiny:
        overrides, args.repeats = ["run.batch=8", "health.samples=8", *overrides], 1
    recipe, machine = load(name, overrides), Machine()
    device = runtime.device(recipe.run.device)
    torch.set_num_threads(args.threads)
    found = {"recipe": " ".join([name, *overrides]), "hardware": hardware(device), "torch": torch.__version__}
    found |= measure(recipe, device, args.repeats)
    tell({**found, "busy": machine.busy()}, table, args.json)


if __name__ == "__main__":
    ended(main)
