"""dmd2 sample: draw images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dmd2cli.engine.generate import Order, Share


def sample(
    prompts: Annotated[list[str] | None, typer.Argument(help="Prompts, for teachers that read text.")] = None,
    student: Annotated[str | None, typer.Option(help="Run, student folder or file; default: the newest run.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Draw with the teacher of this recipe instead.")] = None,
    steps: Annotated[int | None, typer.Option(help="Network calls (student) or sampler steps (teacher).")] = None,
    n: Annotated[int | None, typer.Option("-n", help="How many images; by default one per label, or 16.")] = None,
    labels: Annotated[str | None, typer.Option(help="Class labels, such as 0,1,2; repeated in turn.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Scale, for teachers and students of a range.")] = None,
    seed: Annotated[int, typer.Option(help="Image i is a function of (seed, i).")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="grid.png, a folder, .zip or .npz.")] = Path("samples.png"),
    grid: Annotated[bool | None, typer.Option("--grid/--no-grid", help="One sheet, or one file per image.")] = None,
    batch: Annotated[int, typer.Option(help="Images drawn at once.")] = 250,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps; by default the fastest there is.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was drawn as JSON.")] = False,
) -> None:
    """Draw images with a student, or with a teacher to compare. The same command again draws what is missing."""
    from dmd2cli.cli.subject import count, pick_labels, subject
    from dmd2cli.engine.generate import Order, share
    from dmd2cli.errors import UserError

    as_grid = out.suffix == ".png" if grid is None else grid
    if as_grid and out.suffix != ".png":
        raise UserError(f"-o {out}: a grid is a .png file; for single files name a folder and leave out --grid")
    mine = share()
    found = subject(student, teacher, steps, guidance, mine.device(device))
    if labels and prompts:
        raise UserError("--labels and prompts exclude each other: a student reads one or the other")
    asked = pick_labels(labels, list(found.source.teacher.conditions)) or list(prompts or [])
    number = count(n, len(asked) or 16)
    raw = [asked[i % len(asked)] for i in range(number)] if asked else found.source.conditions(number)
    order = Order(found.source, raw, seed, batch)
    if as_grid:
        facts = sheet(order, out, len(asked or found.source.teacher.conditions) or 8)
    else:
        facts = files(order, out, mine)
    if mine.rank == 0:
        tell({"subject": found.name, **facts}, as_json)


def sheet(order: Order, out: Path, period: int) -> dict[str, Any]:
    """Draw one picture of all images; gives what the command tells."""
    import time

    import torch

    from dmd2cli.cli.subject import writable
    from dmd2cli.images import save_grid

    writable(out)
    started = time.perf_counter()
    drawn = torch.cat(list(order.source.draw(order.raw, order.seed, batch=order.batch)))
    seconds = round(time.perf_counter() - started, 3)
    save_grid(drawn, order.raw, period, out)
    nfe = order.source.sampler.nfe
    return {"n": len(order.raw), "seed": order.seed, "nfe": nfe, "seconds": seconds, "out": str(out)}


def files(order: Order, out: Path, mine: Share) -> dict[str, Any]:
    """Draw a file for each image, or one of them all; gives what the command tells."""
    from dmd2cli.cli.subject import writable
    from dmd2cli.engine.generate import generate
    from dmd2cli.engine.image_set import PACKED

    name = f"rank-{mine.rank}"                             # each process tries with a file of its own
    if out.suffix not in PACKED:
        writable(out / name)
    elif not out.exists():
        writable(out.with_name(f"{out.name}.{name}"))
    return generate(order, out, mine)


def tell(facts: Mapping[str, Any], as_json: bool) -> None:
    """Print what was drawn."""
    import json

    words = "{out}: {n} images from {subject}, {nfe} network calls each, {seconds:.2f} s".format(**facts)
    if not facts.get("complete", True):
        words += "; some of them are still to come from other processes"
    elif facts.get("made", facts["n"]) < facts["n"]:
        words += f", {facts['made']} of them new"
    print(json.dumps(facts) if as_json else words)
