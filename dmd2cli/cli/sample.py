"""dmd2 sample: draw images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sample(
    prompts: Annotated[list[str] | None, typer.Argument(help="Prompts, for teachers that read text.")] = None,
    student: Annotated[str | None, typer.Option(help="Run, student folder or file; default: the newest run.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Draw with the teacher of this recipe instead.")] = None,
    steps: Annotated[int | None, typer.Option(help="Network calls (student) or sampler steps (teacher).")] = None,
    n: Annotated[int | None, typer.Option("-n", help="How many images; by default one per label, or 16.")] = None,
    labels: Annotated[str | None, typer.Option(help="Class labels, such as 0,1,2; repeated in turn.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Scale, for teachers and students of a range.")] = None,
    seed: Annotated[int, typer.Option(help="Image i is a function of (seed, i).")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="A .png for a grid, or a folder.")] = Path("samples.png"),
    grid: Annotated[bool | None, typer.Option("--grid/--no-grid", help="One sheet, or one file per image.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps; by default the fastest there is.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was drawn as JSON.")] = False,
) -> None:
    """Draw images with a student, or with a teacher to compare."""
    import json
    import time

    from dmd2cli.cli.subject import count, pick_labels, subject, writable
    from dmd2cli.errors import UserError
    from dmd2cli.images import save_grid, save_singles

    as_grid = out.suffix == ".png" if grid is None else grid
    if as_grid and out.suffix != ".png":
        raise UserError(f"-o {out}: a grid is a .png file; for single files name a folder and leave out --grid")
    found = subject(student, teacher, steps, guidance, device)
    if labels and prompts:
        raise UserError("--labels and prompts exclude each other: a student reads one or the other")
    asked = pick_labels(labels, list(found.source.teacher.conditions)) or list(prompts or [])
    number = count(n, len(asked) or 16)
    raw = [asked[i % len(asked)] for i in range(number)] if asked else found.source.conditions(number)
    writable(out if as_grid else out / "000000.png")
    started = time.perf_counter()
    drawn = found.source.images(raw, seed)
    seconds = round(time.perf_counter() - started, 3)
    if as_grid:
        save_grid(drawn, raw, len(asked or found.source.teacher.conditions) or 8, out)
    else:
        save_singles(drawn, out)
    nfe = found.source.sampler.nfe
    facts = {"subject": found.name, "n": number, "seed": seed, "nfe": nfe, "seconds": seconds, "out": str(out)}
    words = f"{out}: {number} images from {found.name}, {nfe} network calls each, {seconds:.2f} s"
    print(json.dumps(facts) if as_json else words)
