"""dmd2 eval: measure a student, a teacher, or images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    metric: Annotated[str, typer.Argument(help="A metric by name (dmd2 plugins list), or all of the recipe's.")],
    student: Annotated[str | None, typer.Option(help="Run, student folder or file; default: the newest run.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Measure the teacher of this recipe instead.")] = None,
    images: Annotated[Path | None, typer.Option(help="Measure these instead: a folder, .zip or .npz.")] = None,
    reference: Annotated[str | None, typer.Option(help="What to compare with: images, or .npz of mu, sigma.")] = None,
    prompts: Annotated[str | None, typer.Option(help="Draw for these: a list, or COCO's captions (.json).")] = None,
    column: Annotated[str | None, typer.Option(help="Column or key of the prompts in that list.")] = None,
    per_prompt: Annotated[int | None, typer.Option(help="Images of each prompt; default: 1, for diversity 4.")] = None,
    protocol: Annotated[str | None, typer.Option(help="fid: edm, clean, coco-256, coco-512; clip: plain.")] = None,
    extractor: Annotated[str | None, typer.Option(help="Feature space by name (dmd2 plugins list).")] = None,
    model: Annotated[str | None, typer.Option(help="Of clip-score: NAME/TAG of open_clip, or a folder.")] = None,
    weights: Annotated[str | None, typer.Option(help="Its file, or the extractor's; default: in the cache.")] = None,
    allow_small: Annotated[bool, typer.Option("--allow-small", help="Of fid, fd: accept another count.")] = False,
    steps: Annotated[int | None, typer.Option(help="Network calls (student) or sampler steps (teacher).")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; see dmd2 sample.")] = None,
    n: Annotated[int | None, typer.Option("-n", help="How many; default: 5000, all --prompts, all --images.")] = None,
    seed: Annotated[int, typer.Option(help="Image i is a function of (seed, i).")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result to this file.")] = None,
    baselines: Annotated[bool, typer.Option(help="Also measure the teacher behind a student.")] = True,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps; by default the fastest there is.")] = "auto",
    download: Annotated[bool, typer.Option("--download", help="Fetch a published student that is missing.")] = False,
) -> None:
    """Measure, with the diversity, the protocol and the baselines beside every number; JSON on stdout."""
    import json
    from functools import partial

    from dmd2cli.cli.measuring import Wishes, measured
    from dmd2cli.cli.subject import subject, writable
    from dmd2cli.engine.checkpoint import write_json
    from dmd2cli.errors import UserError

    if images is not None and any(value is not None for value in (student, teacher, steps, guidance)):
        raise UserError("--images excludes --student, --teacher, --steps and --guidance: nothing is drawn")
    said = {"reference": reference, "protocol": protocol, "extractor": extractor, "model": model, "weights": weights}
    options = {k: v for k, v in {**said, "allow_small": allow_small or None}.items() if v is not None}
    if column is not None and prompts is None and images is None:
        raise UserError(f"--column {column}: of which file? name it with --prompts")
    writable(json_file)
    wishes = Wishes(metric, options, n, seed, baselines, device, images, teacher, prompts, column, per_prompt)
    drawn = partial(subject, student, teacher, steps, guidance, device)
    results = measured(wishes, partial(drawn, prompts=[prompts] if prompts else (), download=download or None))
    found = results if metric == "all" else results[0]
    if json_file is not None:
        write_json(json_file, found)
    print(json.dumps(found, indent=2))
