"""dmd2 plan: memory and hours of a recipe, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import typer


def plan(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a packaged one.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Fields to change.")] = None,
    device_memory: Annotated[str | None, typer.Option(help="Does it fit, and if not, what helps: 24G, 80G.")] = None,
    tflops: Annotated[float | None, typer.Option(help="Dense peak of one GPU, TFLOP/s; default: known cards.")] = None,
    efficiency: Annotated[float, typer.Option(help="Share of the peak that training reaches.")] = 0.4,
    gpus: Annotated[int, typer.Option(help="GPUs that share the batch.")] = 1,
    measured_step: Annotated[float | None, typer.Option(help="Seconds of a step, instead of an estimate.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in bytes.")] = False,
) -> None:
    """Say what a recipe takes of a GPU's memory and how long it runs. Opens no weights and no data."""
    import json

    from dmd2cli.engine.plan.fit import parse
    from dmd2cli.engine.plan.plan import Question
    from dmd2cli.engine.plan.plan import plan as planned
    from dmd2cli.recipe import load
    from dmd2cli.recipe_build import check

    device = parse(device_memory) if device_memory is not None else None
    asked = Question(device, tflops, efficiency, gpus, measured_step)
    found = load(recipe, overrides or [])
    check(found)
    facts = {"recipe": recipe, **planned(found, asked)}
    print(json.dumps(facts, indent=2) if as_json else "\n\n".join(paragraphs(facts)))


def paragraphs(facts: Mapping[str, Any]) -> Iterator[str]:
    """The plan for people."""
    batch, rows = facts["batch"], facts["micro_batch"]
    unit, size = ("GiB", gib) if facts["peak"] >= 2**30 else ("MiB", mib)
    split = f" in {batch // rows} micro-batches of {rows}" if rows < batch else ""
    yield f"{facts['recipe']}: batch {batch}{split}, {facts['precision']} on {facts['device']}; sizes in {unit}"
    yield networks(facts, size)
    yield phases(facts, size)
    for name, why in facts["left_out"].items():
        yield f"not in these numbers: losses.{name}: {why}"
    if facts["undecoded"]:
        yield f"not in these numbers: decoding of previews: {facts['undecoded']}"
    if facts["compile"]:
        yield "not in these numbers: run.compile, with which activations take less"
    if facts["host"]:
        yield f"waiting in the CPU's memory: {size(facts['host'])} {unit}"
    if "fit" in facts:
        yield fit(facts["fit"])
    yield costs(facts)
    if facts["time"]:
        yield hours(facts)


def gib(size: int) -> str:
    """Bytes in GiB."""
    return f"{size / 2**30:.2f}" if size else "-"


def mib(size: int) -> str:
    """Bytes in MiB."""
    return f"{size / 2**20:.2f}" if size else "-"


def networks(facts: Mapping[str, Any], size: Callable[[int], str]) -> str:
    """Network by network, what is there all the time, and gradients."""
    from dmd2cli.cli.table import table

    keys = ("weights", "moments", "average", "lasting", "gradients")
    rows = [(n["name"], f"{n['parameters'] / 1e6:.1f} M", *(size(n[key]) for key in keys)) for n in facts["networks"]]
    rows.append(("data of a step", "", "", "", "", size(facts["data"]), ""))
    return table(("NETWORK", "PARAMETERS", "WEIGHTS", "MOMENTS", "AVERAGE", "LASTING", "GRADIENTS"), rows)


def phases(facts: Mapping[str, Any], size: Callable[[int], str]) -> str:
    """Phase by phase, and the worst of them; stages that are alike in one line."""
    from dmd2cli.cli.table import table

    several = len({p["stage"] for p in facts["phases"]} - {None}) > 1
    alike = dict[tuple[str, ...], list[int]]()
    for p in facts["phases"]:
        sizes = (size(p[key]) for key in ("gradients", "activations", "peak"))
        alike.setdefault((p["name"], *sizes), []).append(p["stage"])
    rows = [
        (name + (f", stage {' '.join(map(str, stages))}" if several and None not in stages else ""), *columns)
        for (name, *columns), stages in alike.items()
    ]
    shown = table(("PHASE", "GRADIENTS", "ACTIVATIONS", "PEAK"), rows)
    beside = f"; {size(facts['taken'])} of the device, with fragmentation and CUDA" if facts["device"] == "cuda" else ""
    return f"{shown}\npeak {size(facts['peak'])}{beside}"


def fit(answer: Mapping[str, Any]) -> str:
    """Fits or not, and what helps."""
    device = f"{gib(answer['device_memory'])} GiB"
    if answer["fits"]:
        return f"{device}: fits; the largest micro-batch that does is {answer['largest_micro_batch']}"
    lines = [f"{device}: does not fit"]
    for one in answer["tries"][1:]:
        verdict = "fits" if one["fits"] else "does not fit"
        lines.append(f"  {' '.join(one['overrides'])}: {gib(one['peak'])} GiB, {verdict}")
    if answer["overrides"]:
        lines.append(f"to make it fit, add: {' '.join(answer['overrides'])}")
    elif answer["sharding_over"]:
        over = f"{answer['sharding_over']} GPUs (run.parallel=shard) it might, at micro-batch 1"
        lines.append(f"no switch makes it fit on one; sharded over {over}")
    else:
        lines.append("nothing makes it fit; take a larger device")
    return "\n".join(lines)


def costs(facts: Mapping[str, Any]) -> str:
    """Of a cycle and of the run."""
    one, run = facts["cycle"], facts["run"]
    turns = f"{one['generator_updates']} generator and {one['critic_updates']} critic update(s)"
    return (
        f"a cycle: {turns}, {one['images']:,} images, {operations(one['flops'])}\n"
        f"the run: {run['steps']:,} steps, {run['images']:,} images, {operations(run['flops'])}"
    )


def operations(count: float) -> str:
    """Floating point operations with a prefix."""
    for power, prefix in ((18, "E"), (15, "P"), (12, "T")):
        if count >= 10**power:
            return f"{count / 10**power:,.4g} {prefix}FLOP"
    return f"{count / 1e9:,.4g} GFLOP"


def hours(facts: Mapping[str, Any]) -> str:
    """Of the run."""
    from dmd2cli.cli.table import table

    several = f"{facts['gpus']} GPUs" if facts["gpus"] > 1 else "one GPU"
    found, *_ = facts["time"]
    if "measured_step" in found:
        share = f", {found['efficiency']:.0%} of the stated peak" if "efficiency" in found else ""
        reached = f"{found['tflops_reached']:.3g} TFLOP/s of each of {facts['gpus']}{share}"
        return f"{found['measured_step']:g} s per step, as measured: {long(found['hours'])} hours; that is {reached}"
    if "card" not in found:
        stated = f"{found['tflops']:g} TFLOP/s peak, of which {found['efficiency']:.0%}"
        return f"{several}, {stated}: {long(found['hours'])} hours"
    rows = [
        (t["card"], gib(t["device_memory"]), str(t["largest_micro_batch"] or "-"), f"{t['tflops']:g}", long(t["hours"]))
        for t in facts["time"]
    ]
    shown = table(("CARD", "MEMORY", "LARGEST MICRO-BATCH", "PEAK TFLOP/S", "HOURS"), rows)
    return f"{shown}\n{several}, {found['efficiency']:.0%} of the dense bf16 peak of the data sheet"


def long(hours: float) -> str:
    """Hours; what takes less than a tenth of one is bound by other things than arithmetic."""
    return f"{hours:,.1f}" if hours >= 0.1 else "< 0.1"
