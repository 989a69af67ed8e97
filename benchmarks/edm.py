"""Speed and memory of a DMD2 cycle of the EDM family, against the matrix multiplications of the same device.

    python benchmarks/edm.py [--preset imagenet64] [--batch 40] [--cycles 10] [--variants eager,compile] [--json FILE]

A cycle is one generator update and five critic updates with the released terms, on random weights and images: the
numbers depend on neither. `images_per_s` counts as the release does, samples per critic update; `tflops` are those
of the cycle itself, without what checkpointing computes a second time; `ceiling` is a bfloat16 product of two
8192 x 8192 matrices. Without a GPU a tiny network runs instead, in float32, and the result says so.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path

import torch
from dmd2_plugins.edm.network import network
from dmd2_plugins.edm.presets import find
from dmd2_plugins.edm.teacher import wrap
from torch.utils.flop_counter import FlopCounterMode

from dmd2cli import registry
from dmd2cli.core.random import Rng
from dmd2cli.engine import runtime
from dmd2cli.engine.distill import DistillJob, job
from dmd2cli.protocols import Example
from dmd2cli.recipe import Recipe

TTUR = 5
VARIANTS = {
    "eager": {},
    "checkpointing": {"checkpointing": True},
    "compile": {"compile": True},
    "compile+checkpointing": {"compile": True, "checkpointing": True},
}
RELEASE = {"images_per_s": 200_000 * 280 / (53 * 3600 * 7), "device": "A100", "nominal_tflops": 312.0}
"""Per GPU: 200,000 updates of 280 images in 53 hours on 7 A100 (released script and README), 42 images/s."""
COUNTED = 2
"""Batch whose cycle is counted; operations grow linearly with it."""


class Noise:
    """Dataset: normal images, item i a function of i, labels in turn."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        self.shape, self.classes = shape, classes

    def __len__(self) -> int:
        return 1024

    def __getitem__(self, i: int) -> Example:
        x = Rng(0, i).normal("x", torch.empty(1, *self.shape))[0]
        return Example(x, i % self.classes if self.classes else None)


def recipe(batch: int, bf16: bool, conditional: int, **run) -> Recipe:
    """The release's ImageNet-64 settings (facts: its one-stage script) for the teacher and data of this benchmark."""
    terms = {
        "distribution_matching": {"t_min": 0.02, "t_max": 0.98},
        "gan_generator": {"weight": 3e-3},
        "denoising": {},
        "gan_critic": {"weight": 1e-2},
    }
    made = {
        "teacher": "benchmark",
        "student": {"lr": 2e-6},
        "critic": {"lr": 2e-6},
        "ttur": TTUR,
        "bins": 1000,
        "losses": terms,
        "data": {"real": "benchmark"},
        "sampler": "heun",
        "run": {"steps": 10**6, "batch": batch, "precision": "bf16" if bf16 else "fp32", **run},
    }
    if conditional:
        made["data"]["prompts"] = {"use": "class-labels", "classes": conditional}
    return Recipe.model_validate(made)


def cycle(work: DistillJob, number: int) -> None:
    for step in range(number * TTUR, (number + 1) * TTUR):
        work.step(step)


def seconds(action, device: torch.device) -> float:
    """Of one call, the device's work included."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    action()
    wait()
    return time.perf_counter() - started


def ceiling(device: torch.device, side: int, dtype: torch.dtype, clock=seconds) -> float:
    """FLOP/s of a square matrix product; the median of 20, after 5 to warm up."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    found = [clock(lambda: a @ b, device) for _ in range(25)][5:]
    return 2 * side**3 / statistics.median(found)


def operations(device: torch.device, bf16: bool, classes: int) -> float:
    """Floating-point operations of a cycle per row of the batch, as PyTorch counts them."""
    work = job(recipe(COUNTED, bf16, classes), device)
    with FlopCounterMode(display=False) as counter:
        cycle(work, 0)
    return counter.get_total_flops() / COUNTED


def measure(device: torch.device, batch: int, bf16: bool, classes: int, cycles: int, options: dict) -> dict:
    """One variant: seconds of a cycle, images per second, peak memory."""
    work, cuda = job(recipe(batch, bf16, classes, **options), device), device.type == "cuda"
    started = time.perf_counter()
    for number in range(2):                                 # compilation, and the first steps of the optimisers
        cycle(work, number)
    warm = time.perf_counter() - started
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    found = [seconds(lambda n=n: cycle(work, n), device) for n in range(2, cycles + 2)]
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if cuda else None
    median = statistics.median(found)
    return {"cycle_s": median, "images_per_s": TTUR * batch / median, "peak_gib": peak, "warm_up_s": warm}


def result(args: argparse.Namespace, device: torch.device) -> dict:
    """The result of the benchmark."""
    preset, bf16 = find(args.preset), device.type == "cuda"
    config = preset.config
    found = {
        "preset": args.preset, "batch": args.batch, "ttur": TTUR, "cycles": args.cycles,
        "precision": "bf16" if bf16 else "fp32", "tiny": args.preset.startswith("tiny"),
        "hardware": torch.cuda.get_device_name(device) if bf16 else f"CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }  # fmt: skip
    side, dtype = (8192, torch.bfloat16) if bf16 else (1024, torch.float32)
    top = ceiling(device, side, dtype)
    found["ceiling"] = {"tflops": top / 1e12, "side": side, "dtype": str(dtype).removeprefix("torch.")}
    shape = (config.img_channels, config.img_resolution, config.img_resolution)
    with ExitStack() as stack:
        made = lambda: wrap(network(config), config, {"family": "edm"})  # noqa: E731
        stack.enter_context(registry.override("teachers", "benchmark", made))
        stack.enter_context(registry.override("datasets", "benchmark", lambda: Noise(shape, config.label_dim)))
        per_row = operations(device, bf16, config.label_dim)
        found["gflop_per_cycle_and_row"] = per_row / 1e9
        rows = found["variants"] = {}
        for name in args.variants.split(","):
            with torch.cuda.device(device) if bf16 else nullcontext():
                row = measure(device, args.batch, bf16, config.label_dim, args.cycles, VARIANTS[name])
            flops = per_row * args.batch / row["cycle_s"]
            rows[name] = {**row, "tflops": flops / 1e12, "of_ceiling": flops / top}
            forget(device)
    if not found["tiny"]:
        scaled = RELEASE["images_per_s"] * top / 1e12 / RELEASE["nominal_tflops"]
        found["release"] = {**RELEASE, "scaled_images_per_s": scaled}
    return found


def forget(device: torch.device) -> None:
    """Nothing of one variant is left for the next."""
    gc.collect()
    torch._dynamo.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def table(found: dict) -> str:
    """The result for people."""
    top = found["ceiling"]
    lines = [
        f"{found['preset']}, batch {found['batch']}, {found['precision']}, {found['hardware']}, torch {found['torch']}",
        *(["no GPU here: a tiny network, whose numbers say nothing of the real one"] if found["tiny"] else []),
        f"matrix product: {top['tflops']:.3g} TFLOP/s ({top['side']}^3, {top['dtype']});"
        f" {found['gflop_per_cycle_and_row']:.4g} GFLOP per cycle and row",
        f"{'':22} {'cycle s':>9} {'images/s':>9} {'TFLOP/s':>9} {'of product':>10} {'peak GiB':>9}",
    ]
    for name, row in found["variants"].items():
        peak = f"{row['peak_gib']:9.1f}" if row["peak_gib"] is not None else f"{'-':>9}"
        speed = f"{row['cycle_s']:9.3f} {row['images_per_s']:9.2f} {row['tflops']:9.3g} {row['of_ceiling']:10.1%}"
        lines.append(f"{name:22} {speed} {peak}")
    if "release" in found:
        scaled, release = found["release"]["scaled_images_per_s"], found["release"]["images_per_s"]
        lines.append(f"release: {release:.0f} images/s per A100; {scaled:.0f} if it gained as the matrix product does")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", help="default: imagenet64 on a GPU, tiny-adm on a CPU")
    parser.add_argument("--batch", type=int, help="rows per update; default: 40 on a GPU, as released, 4 on a CPU")
    parser.add_argument("--cycles", type=int, default=10)
    parser.add_argument("--variants", help=f"of {', '.join(VARIANTS)}; default: all on a GPU, no compile on a CPU")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = runtime.device(args.device)
    cuda = device.type == "cuda"
    args.preset = args.preset or ("imagenet64" if cuda else "tiny-adm")
    args.batch = args.batch or (40 if cuda else 4)
    args.variants = args.variants or ",".join(VARIANTS if cuda else ["eager", "checkpointing"])
    if unknown := set(args.variants.split(",")) - VARIANTS.keys():
        parser.error(f"--variants: {', '.join(sorted(unknown))}; choose from {', '.join(VARIANTS)}")
    found = result(args, device)
    print(table(found))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
