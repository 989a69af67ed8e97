"""Speed and memory of a DMD2 cycle of SDXL, and of drawing with its student, on random weights of the true size.

    python benchmarks/sdxl.py [--recipe sdxl-4step] [--variants eager,checkpointing] [KEY=VALUE ...] [--json FILE]
    python benchmarks/sdxl.py --tiny [--recipe sdxl-4step] [run.batch=16 run.micro_batch=8]

A cycle is one generator update and five critic updates; latents and text come encoded, so that neither the VAE nor the
text encoders are there. `images_per_s` counts samples per critic update, as the release does; `tflops` are those of the
cycle without what checkpointing computes a second time; `ceiling` is a bfloat16 product of two 8192 x 8192 matrices.
Without run.micro_batch it is the largest that `dmd2 plan` says fits in 0.9 of the memory. Drawing is timed beside the
UNet of diffusers called as often, and the VAE.

--tiny runs the tests' SDXL of latents 8 x 8 instead, and times each cycle beside the bare passes that it needs: forward
and backward of the networks in plain PyTorch, without losses, optimisers or random numbers. On a CPU all times are CPU
seconds of this process, which other programs do not change.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from edm import VARIANTS, ceiling, forget
from sdxl_cycle import calls, cycle, cycles_of, overhead, spent
from sdxl_model import TINY, dataset, teacher

from dmd2cli import registry
from dmd2cli.engine import build, runtime
from dmd2cli.engine.distill import DistillJob, job
from dmd2cli.engine.plan.fit import largest, parse, taken, with_run
from dmd2cli.engine.plan.memory import Memory, memory
from dmd2cli.engine.plan.probe import Rehearsed
from dmd2cli.inference import at_dtype
from dmd2cli.recipe import Recipe, load
from dmd2cli.samplers.few_step import FewStep
from dmd2cli.source import Source

RECIPES = ("sdxl-4step", "sdxl-4step-lora", "sdxl-4step-24gb")
FOLDER = Path(__file__).parent.parent / "recipes"
OVERRIDES = (
    "teacher=benchmark", "data.prompts={use: benchmark}", "data.real={use: benchmark}", "run.preview_every=null",
    "run.steps=1000000",
)  # fmt: skip
BATCH = 32
"""Images of an update on a GPU; the recipes' own batch has longer cycles of the same speed."""
RELEASE = {"images_per_s": 128 / 10.8, "device": "64 A100", "nominal_tflops": 64 * 312.0}
"""128 images in 10.8 s: 19,000 updates in 57 hours (released script and README)."""


# -- speed and memory -------------------------------------------------------------------------------------------


def flops(work: DistillJob, found: Rehearsed, numbers: range) -> float:
    """Floating point operations of some cycles, per row of the batch."""
    total = 0.0
    for turn, step in ((s % work.recipe.ttur, s) for n in numbers for s in cycles_of(work, n)):
        total += found.critic.flops + (calls(work, step) + bool(turn)) * found.sample.flops
        total += 0 if turn else found.generator.flops
    return total


def planned(recipe: Recipe, kind: str, room: int | None, asked: bool) -> tuple[Recipe, Memory]:
    """The recipe at the largest micro-batch that fits, unless one is asked for, and its memory."""
    found = memory(recipe, kind)
    if asked or room is None:
        return recipe, found
    rows = largest(found, int(0.9 * room), kind)
    return with_run(recipe, {"micro_batch": rows or 1}), found


def train(recipe: Recipe, plan: Memory, once: Rehearsed, device: torch.device, cycles: int) -> dict:
    """One variant: seconds of a cycle, images and operations per second, peak memory beside the plan's."""
    work, cuda, rows = job(recipe, device), device.type == "cuda", recipe.run.micro_batch or recipe.run.batch
    warm = spent(lambda: cycle(work, 0), device)
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    found = [spent(lambda n=n: cycle(work, n), device) for n in range(1, cycles + 1)]
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if cuda else None
    done = recipe.run.batch * flops(work, once, range(1, cycles + 1))
    expected = max(phase.peak for phase in plan.phases(rows) if phase.name.endswith("update"))
    device_gib = {"planned_gib": expected / 2**30, "planned_of_device_gib": taken(expected, device.type) / 2**30}
    speed = {"cycle_s": sum(found) / cycles, "images_per_s": cycles * recipe.ttur * recipe.run.batch / sum(found)}
    took = {"tflops": done / sum(found) / 1e12, "warm_up_s": warm}
    return {"micro_batch": rows, **speed, **took, "peak_gib": peak, **device_gib}


def variants(recipe: Recipe, args: argparse.Namespace, device: torch.device, top: float) -> Iterator[tuple[str, dict]]:
    """Every variant, or why there is none of it."""
    once = memory(with_run(recipe, {"checkpointing": False}), device.type).stages[0][1]
    for name in args.variants.split(","):
        options = {"checkpointing": False, "compile": False, **VARIANTS[name]}
        asked = args.tiny or any(one.startswith("run.micro_batch=") for one in args.overrides)
        ready, plan = planned(with_run(recipe, options), device.type, args.room, asked)
        try:
            row = train(ready, plan, once, device, args.cycles)
        except torch.OutOfMemoryError as err:
            row = {"micro_batch": ready.run.micro_batch, "problem": str(err).partition(".")[0]}
        else:
            row |= {"of_ceiling": row["tflops"] * 1e12 / top, "per_ceiling": row["images_per_s"] / top * 1e12}
        forget(device)
        yield name, row


# -- drawing ----------------------------------------------------------------------------------------------------


def drawing(recipe: Recipe, device: torch.device, images: int, repeats: int) -> dict:
    """Seconds of some images by a student of all weights, beside the UNet and the VAE alone."""
    found, cuda = build.teacher(recipe, device), device.type == "cuda"
    source = at_dtype(Source(found, found.denoiser, FewStep(recipe.student.times)), "bf16" if cuda else "fp32")
    unet, vae, latents = found.denoiser.backbone.unet, found.decode.vae.get(), found.details["latents"]
    cond = {name: value.to(device, unet.dtype) for name, value in found.encode([None] * images)[0].items()}
    added = {"text_embeds": cond["pooled"], "time_ids": cond["time_ids"]}
    times = torch.tensor([round(1000 * t) - 1 for t in recipe.student.times], device=device)

    @torch.no_grad()
    def bare() -> torch.Tensor:
        x = torch.randn(images, *found.shape, device=device, dtype=unet.dtype)
        for t in times:
            x = unet(x, t, cond["text"], added_cond_kwargs=added, return_dict=False)[0]
        return vae.decode(x.to(vae.dtype) / latents["scale"], return_dict=False)[0].cpu()

    pairs = {"drawing": lambda: list(source.draw([None] * images, 0, batch=images)), "bare": bare}
    rows = [{name: spent(action, device) for name, action in pairs.items()} for _ in range(repeats + 2)][2:]
    medians = {f"{name}_s": statistics.median(row[name] for row in rows) for name in pairs}
    return {"images": images, **medians, "ratio": statistics.median(row["drawing"] / row["bare"] for row in rows)}


# -- all of it --------------------------------------------------------------------------------------------------


def result(args: argparse.Namespace, device: torch.device) -> dict:
    """The result of the benchmark."""
    cuda, changes = device.type == "cuda", TINY if args.tiny else {}
    found = {
        "recipe": args.recipe, "tiny": args.tiny, "cycles": args.cycles, "torch": torch.__version__,
        "hardware": torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} threads",
    }  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(registry.override("teachers", "benchmark", teacher(changes, device)))
        stack.enter_context(registry.override("datasets", "benchmark", dataset(changes)))
        recipe = load(FOLDER / f"{args.recipe}.yaml", asked(args))
        run = recipe.run
        found |= {"batch": run.batch, "ttur": recipe.ttur, "precision": run.precision}
        if args.tiny:
            found["micro_batch"], found["overhead"] = run.micro_batch, overhead(recipe, device, args.cycles)
        if args.variants:
            side, dtype = (8192, torch.bfloat16) if cuda else (1024, torch.float32)
            top = ceiling(device, side, dtype)
            found["ceiling"] = {"tflops": top / 1e12, "side": side, "dtype": str(dtype).removeprefix("torch.")}
            found["variants"] = dict(variants(recipe, args, device, top))
        found["drawing"] = drawing(recipe, device, args.images, args.cycles)
    found["release"] = {**RELEASE, "per_ceiling": RELEASE["images_per_s"] / RELEASE["nominal_tflops"]}
    return found


def asked(args: argparse.Namespace) -> list[str]:
    """KEY=VALUE of the recipe."""
    size = ["tier=cpu-smoke"] if args.tiny else [f"run.batch={BATCH}"]
    return [*size, *OVERRIDES, *args.overrides]


def table(found: dict) -> str:
    """The result for people."""
    lines = [
        f"{found['recipe']}, batch {found['batch']}, {found['precision']}, {found['hardware']}, torch {found['torch']}",
        *(["a tiny SDXL, whose numbers say nothing of the real one but the overhead"] if found["tiny"] else []),
    ]
    if "overhead" in found:
        row, passes = found["overhead"], found["overhead"]["passes"]
        rows = ", ".join(f"{part} {passes['counted'][part]} / {n} rows" for part, n in passes["needed"].items())
        speed = f"cycle {row['cycle_s']:.4f} s   bare passes {row['bare_s']:.4f} s"
        lines += [f"{speed}   ratio {row['ratio']:.3f}", f"counted / needed: {rows}"]
    if "variants" in found:
        top = found["ceiling"]
        heads = ("micro", "cycle s", "images/s", "TFLOP/s", "of product", "release x", "peak GiB", "planned")
        lines.append(f"matrix product: {top['tflops']:.3g} TFLOP/s ({top['side']}^3, {top['dtype']})")
        lines.append(f"{'':22}" + "".join(f" {head:>10}" for head in heads))
        lines += [line(name, row, found["release"]["per_ceiling"]) for name, row in found["variants"].items()]
    row = found["drawing"]
    drawn = f"{row['images']} images drawn: {row['drawing_s']:.4f} s   UNet and VAE alone {row['bare_s']:.4f} s"
    lines.append(f"{drawn}   ratio {row['ratio']:.3f}")
    return "\n".join(lines)


def line(name: str, row: dict, release: float) -> str:
    """A variant; "release x" compares images per second for each TFLOP/s of the matrix product."""
    if "problem" in row:
        return f"{name:22} {row['micro_batch']:10} {row['problem']}"
    peak = f"{row['peak_gib']:10.2f}" if row["peak_gib"] is not None else f"{'-':>10}"
    speed = f"{row['cycle_s']:10.3f} {row['images_per_s']:10.3f} {row['tflops']:10.3g} {row['of_ceiling']:10.1%}"
    memory = f"{peak} {row['planned_gib']:10.2f}"
    return f"{name:22} {row['micro_batch']:10} {speed} {row['per_ceiling'] / release:10.1f} {memory}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--recipe", choices=RECIPES, default=RECIPES[0])
    parser.add_argument("--variants", help=f"of {', '.join(VARIANTS)}; default: eager,checkpointing, none with --tiny")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--cycles", type=int, help="default: 3, 30 with --tiny")
    parser.add_argument("--images", type=int, default=4, help="drawn at once")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--device-memory", help="of the card that is asked about, such as 24G: more cannot be taken")
    parser.add_argument("--threads", type=int, help="of a CPU; default: 1 with --tiny")
    parser.add_argument("--json", type=Path)
    args = parser.parse_intermixed_args()
    device = runtime.device(args.device)
    if device.type != "cuda" and not args.tiny:
        parser.error("no GPU here; --tiny runs on a CPU")
    args.cycles = args.cycles or (30 if args.tiny else 3)
    args.variants = ("" if args.tiny else "eager,checkpointing") if args.variants is None else args.variants
    if unknown := set(filter(None, args.variants.split(","))) - VARIANTS.keys():
        parser.error(f"--variants: {', '.join(sorted(unknown))}; choose from {', '.join(VARIANTS)}")
    args.room = room(device, args.device_memory)
    runtime.set_threads(args.threads or (1 if args.tiny else None))
    found = result(args, device)
    print(table(found))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=2) + "\n")


def room(device: torch.device, asked: str | None) -> int | None:
    """Bytes of the GPU, or the smaller number that is asked for, which it is then limited to."""
    if device.type != "cuda":
        return None
    whole = torch.cuda.get_device_properties(device).total_memory
    wanted = min(whole, parse(asked)) if asked else whole
    torch.cuda.set_per_process_memory_fraction(wanted / whole, device)
    return wanted


if __name__ == "__main__":
    main()
