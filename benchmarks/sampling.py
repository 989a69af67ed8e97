"""Images per second of a student and its teacher, and their latency, against the network calls alone.

    python benchmarks/sampling.py [REF | RECIPE] [KEY=VALUE ...] [--batches 1,16,64] [--repeats 20] [--json FILE]

REF is a student: a run folder, a safetensors file, a published one. A recipe stands for a student that has its times
and the teacher's weights, which is as fast. Each batch is drawn as `dmd2 sample` draws it, up to images in the CPU's
memory, beside the same calls of the network and of the decoder, in turn. Latency is the clock's, of a whole batch;
`ratio` is that of CPU seconds on a CPU, which other programs do not change much, and of the clock's on a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import Machine, described, ended, hardware, spent, tell

from dmd2cli import published
from dmd2cli.engine import build, runtime
from dmd2cli.engine.speed import WARM, once, percentiles
from dmd2cli.errors import UserError
from dmd2cli.recipe import load
from dmd2cli.samplers.few_step import FewStep
from dmd2cli.source import Source
from dmd2cli.student import load_student


def sources(ref: str, overrides: list[str], device: torch.device) -> dict[str, Source]:
    """The student, and its teacher if its weights are there."""
    if Path(ref).is_dir() or ref.endswith(".safetensors") or published.known(ref) is not None:
        student = load_student(ref, device)
        try:
            return {"student": student.source, "teacher": student.teacher()}
        except UserError as err:
            print(f"no teacher: {err}", file=sys.stderr)
            return {"student": student.source}
    recipe = load(ref, overrides)
    teacher = build.teacher_source(recipe, device)
    times = FewStep(recipe.student.times, recipe.student.sampler == "stochastic")
    return {"student": Source(teacher.teacher, teacher.network, times), "teacher": teacher}


def bare(source: Source, batch: int) -> Callable[[], torch.Tensor]:
    """The calls of the network that a batch takes, and its decoding, with nothing between."""
    calls, network = list[tuple](), source.network

    def noted(*args: torch.Tensor) -> torch.Tensor:
        calls.append(args)
        return inner(*args)

    inner = network.forward
    network.__dict__["forward"] = noted
    try:
        x = source.latents(source.conditions(batch), 0, range(batch))
    finally:
        del network.__dict__["forward"]

    @torch.no_grad()
    def again() -> torch.Tensor:
        for args in calls:
            network(*args)
        return source.teacher.decode(x).cpu()

    return again


def row(source: Source, batch: int, repeats: int) -> dict:
    """One source at one batch size."""
    raw, device = source.conditions(batch), source.device
    plain = bare(source, batch)
    latency, ratios = list[float](), list[float]()

    def drawn() -> None:
        latency.append(once(source, raw))

    for i in range(repeats + WARM):
        pair = {"drawn": drawn, "bare": plain}
        took = {name: spent(pair[name], device) for name in sorted(pair, reverse=bool(i % 2))}
        ratios.append(took["drawn"] / took["bare"])
    latency, ratios = latency[WARM:], ratios[WARM:]
    speed = {"images_per_s": batch / statistics.median(latency), "calls": source.nfe}
    return {"batch": batch, **speed, **percentiles(latency), "ratio": statistics.median(ratios)}


def measure(args: argparse.Namespace) -> dict:
    """The result of the benchmark."""
    device, machine = runtime.device(args.device), Machine()
    found = {name: [row(source, batch, args.repeats) for batch in args.batches]
             for name, source in sources(args.ref, args.overrides, device).items()}  # fmt: skip
    facts = {"hardware": hardware(device), "torch": torch.__version__, "repeats": args.repeats}
    return {"ref": args.ref, "overrides": args.overrides, **facts, "rows": found, "busy": machine.busy()}


def table(found: dict) -> str:
    """The result for people."""
    heads = f"{'calls':>5} {'batch':>5} {'images/s':>10} {'p50 ms':>10} {'p90 ms':>10} {'p99 ms':>10} {'to bare':>8}"
    lines = [f"{found['ref']}, {found['hardware']}, torch {found['torch']}", f"{'':8} {heads}"]
    for name, rows in found["rows"].items():
        for one in rows:
            times = " ".join(f"{1000 * one[f'p{p}_s']:10.2f}" for p in (50, 90, 99))
            start = f"{name:8} {one['calls']:5} {one['batch']:5} {one['images_per_s']:10.1f}"
            lines.append(f"{start} {times} {one['ratio']:8.3f}")
    return "\n".join(lines)


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("ref", nargs="?", default="digits", metavar="REF | RECIPE")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="over a recipe")
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 16, 64])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tiny", action="store_true", help="batches of 1 and 2, twice: does it run at all")
    args = parser.parse_intermixed_args()
    if "=" in args.ref:                                                # no recipe is named: it is an override
        args.ref, args.overrides = "digits", [args.ref, *args.overrides]
    if args.tiny:
        args.batches, args.repeats = [1, 2], 2
    torch.set_num_threads(args.threads)
    found = measure(args)
    tell(found, table, args.json)


if __name__ == "__main__":
    ended(main)
