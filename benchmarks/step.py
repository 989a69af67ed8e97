"""What a training cycle costs beyond the network passes it cannot do without, how fast it is, what switches change.

    python benchmarks/step.py [RECIPE] [KEY=VALUE ...] [--cycles 30] [--threads 1] [--json FILE]
    python benchmarks/step.py RECIPE --switches checkpointing,compile,bf16

A cycle is one generator update and the critic updates that go with it. `ratio` is that of the engine's cycle to its
bare passes: the same forward and backward passes of the same networks, recorded in that very cycle and made again
right after it without the engine (benchmarks/replay.py). Where a cycle is simple enough to write down, the rows that
hooks count are shown beside those that are needed, and a DMD2 loop written by hand is timed as well. Operations are
those that PyTorch counts in a cycle without switches; the ceiling is a square matrix product in the same run. Times
are CPU seconds of this process on a CPU, which other programs do not change much, and the device's on a GPU. Peak
memory is all of the process on a CPU, tensors on a GPU. Switches are compared in turn, cycle by cycle, with the plain
step on a CPU; on a GPU each has the memory for itself.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter

import torch
from by_hand import ByHand, counted, known, needed
from edm import ceiling, forget
from edm import seconds as timed
from measuring import Machine, chosen, described, ended, hardware, shown, spent, spread, tell
from replay import Recording
from switches import SWITCHES, WARM, Cycles, compared
from torch.utils.flop_counter import FlopCounterMode

from dmd2cli.engine import runtime
from dmd2cli.recipe import Recipe, load

__all__ = ["timed"]

def passes(recipe: Recipe, device: torch.device, cycles: int) -> dict:
    """Each cycle and its bare passes."""
    cycle, found = Cycles(recipe, device), {"cycle": list[float](), "bare": list[float](), "hand": list[float]()}
    work, simple = cycle.work, known(cycle.work)
    rows = {"counted": named(counted(work)), "needed": named(needed(recipe))} if simple else {}
    with device:
        hand = ByHand(work) if simple and "joint_critic" in recipe.losses else None
    for i in range(cycles + WARM):
        recording, once = Recording(work), Counter()
        with recording():
            once["cycle"] = spent(cycle, device)
        once["bare"] = spent(recording.again, device)
        if hand is not None:
            with device:
                once["hand"] = spent(hand, device)
        if i >= WARM:
            for name, elapsed in once.items():
                found[name].append(elapsed)
    ratios = spread([a / b for a, b in zip(found["cycle"], found["bare"], strict=True)])
    medians = {f"{name}_s": statistics.median(values) for name, values in found.items() if values}
    quartiles = {"ratio_quartiles": [ratios["low"], ratios["high"]]}
    replayed = dict(sorted(recording.rows().items()))
    return {"ratio": ratios["median"], **quartiles, **medians, "cycles": cycles, "passes": {**rows, "calls": replayed}}


def named(rows: Counter) -> dict[str, int]:
    """{"fake encoder": rows, ...}, sorted."""
    return {" ".join(key): rows[key] for key in sorted(rows)}


def operations(recipe: Recipe, device: torch.device, cycles: int) -> float:
    """Of a cycle, without switches that compute things twice; the mean of some, which may differ."""
    plain = recipe.run.model_copy(update={"checkpointing": False, "compile": False})
    cycle = Cycles(recipe.model_copy(update={"run": plain}), device)
    with FlopCounterMode(display=False) as counter:
        for _ in range(cycles):
            cycle()
    return counter.get_total_flops() / cycles


def measure(recipe: Recipe, cycles: int) -> dict:
    """The engine's cycle beside its bare passes."""
    device = runtime.device(recipe.run.device)
    facts = {"batch": recipe.run.batch, "ttur": recipe.ttur, "hardware": hardware(device), "torch": torch.__version__}
    return {**passes(recipe, device, cycles), **facts}


def speed(recipe: Recipe, device: torch.device) -> dict:
    """Operations of a cycle, and what a matrix product reaches here."""
    dtype = runtime.autocast_dtype(recipe.run.precision, device) or torch.float32
    side = 8192 if device.type == "cuda" else 1024
    top = ceiling(device, side, dtype, spent)
    found = {"tflops": top / 1e12, "side": side, "dtype": str(dtype).removeprefix("torch.")}
    return {"ceiling": found, "tflop_per_cycle": operations(recipe, device, 1) / 1e12}


def result(args: argparse.Namespace) -> dict:
    """All of it."""
    name, overrides = chosen(args.words)
    recipe, machine = load(name, overrides), Machine()
    device = runtime.device(recipe.run.device)
    runtime.set_tf32(recipe.run)
    found = {"recipe": name, "overrides": overrides, "precision": recipe.run.precision, **measure(recipe, args.cycles)}
    forget(device)
    found |= speed(recipe, device)
    found["steps"] = compared(args.switches, name, overrides, device, args.cycles)
    for row in found["steps"].values():
        if "cycle_s" in row:
            row["tflops"] = found["tflop_per_cycle"] / row["cycle_s"]
            row["of_ceiling"] = row["tflops"] / found["ceiling"]["tflops"]
    found["busy"] = machine.busy()
    return found


def table(found: dict) -> str:
    """The result for people."""
    head = f"{found['recipe']} {' '.join(found['overrides'])}".strip()
    calls, top = found["passes"], found["ceiling"]
    lines = [f"{head}, batch {found['batch']}, {found['hardware']}, torch {found['torch']}"]
    if "needed" in calls:
        lines.append("rows per cycle       counted  needed")
        lines += [f"{name:20} {calls['counted'].get(name, 0):7} {rows:7}" for name, rows in calls["needed"].items()]
    hand = f"   hand-written {found['hand_s']:.4f} s" if "hand_s" in found else ""
    low, high = found["ratio_quartiles"]
    ratio = shown({"median": found["ratio"], "low": low, "high": high})
    lines.append(f"cycle {found['cycle_s']:.4f} s   bare {found['bare_s']:.4f} s{hand}   ratio {ratio}")
    product = f"{1000 * top['tflops']:.4g} GFLOP/s ({top['side']}^3, {top['dtype']})"
    lines.append(f"matrix product: {product}; a cycle: {1000 * found['tflop_per_cycle']:.4g} GFLOP")
    heads = f"{'cycle s':>9} {'to plain':>9} {'GFLOP/s':>9} {'of product':>10} {'peak GiB':>9} {'data wait':>9}"
    lines.append(f"{'':18} {heads}")
    lines += [line(name, row) for name, row in found["steps"].items()]
    parts = found["steps"]["plain"]["parts_s"]
    shares = "  ".join(f"{name} {seconds / sum(parts.values()):.1%}" for name, seconds in parts.items())
    return "\n".join([*lines, f"plain: {shares}"])


def line(name: str, row: dict) -> str:
    """The step with a switch."""
    if "problem" in row:
        return f"{name:18} {row['problem']}"
    peak = f"{row['peak_gib']:9.2f}" if row["peak_gib"] is not None else f"{'-':>9}"
    speeds = f"{row['cycle_s']:9.4f} {row['to_plain']:9.3f} {1000 * row['tflops']:9.4g} {row['of_ceiling']:10.1%}"
    return f"{name:18} {speeds} {peak} {row['data_wait_s']:9.4f}"


def switches(text: str) -> list[str]:
    """Names of SWITCHES. Raises argparse's error for others."""
    names = list(SWITCHES) if text == "all" else [name for name in text.split(",") if name]
    if unknown := [name for name in names if name not in SWITCHES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]}: choose from {', '.join(SWITCHES)}, or all")
    return names


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = described(__doc__)
    made.add_argument("words", nargs="*", metavar="RECIPE KEY=VALUE", help="default: digits")
    made.add_argument("--cycles", type=int, default=30)
    made.add_argument("--switches", type=switches, default=[], metavar="a,b", help=f"all, or of {', '.join(SWITCHES)}")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--tiny", action="store_true", help="a batch of 8 and two cycles: does it run at all")
    return made


def main() -> None:
    args = parser().parse_intermixed_args()
    if args.tiny:
        name, overrides = chosen(args.words)
        args.words, args.cycles = [name, "run.batch=8", *overrides], 2
    torch.set_num_threads(args.threads)
    found = result(args)
    tell(found, table, args.json)


if __name__ == "__main__":
    ended(main)
