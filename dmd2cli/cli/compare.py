"""dmd2 eval compare: several subjects in one table, and in one figure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    subjects: Annotated[list[str], typer.Argument(
        metavar="SUBJECT...", help="REF, teacher:RECIPE, images:PATH, pipeline:PATH,steps=4, or a result (.json).",
    )],
    metrics: Annotated[str | None, typer.Option(help="Such as fid,clip-score; default: the first recipe's.")] = None,
    reference: Annotated[str | None, typer.Option(help="What to compare with: images, or .npz of mu, sigma.")] = None,
    prompts: Annotated[str | None, typer.Option(help="Draw for these: a list, or COCO's captions (.json).")] = None,
    column: Annotated[str | None, typer.Option(help="Column or key of the prompts in that list.")] = None,
    per_prompt: Annotated[int | None, typer.Option(help="Images of each prompt; default: 1, for diversity 4.")] = None,
    protocol: Annotated[str | None, typer.Option(help="fid: edm, clean, coco-256, coco-512; clip: plain.")] = None,
    extractor: Annotated[str | None, typer.Option(help="Feature space by name (dmd2 plugins list).")] = None,
    model: Annotated[str | None, typer.Option(help="Of clip-score: NAME/TAG of open_clip, or a folder.")] = None,
    weights: Annotated[str | None, typer.Option(help="Its file, or the extractor's; default: in the cache.")] = None,
    allow_small: Annotated[bool, typer.Option("--allow-small", help="Of fid, fd: accept another count.")] = False,
    n: Annotated[int | None, typer.Option("-n", help="How many; default: 5000, all --prompts, all images.")] = None,
    seed: Annotated[int | None, typer.Option(help="Image i is a function of (seed, i); by default 0.")] = None,
    seeds: Annotated[str | None, typer.Option(help="n images of each: 0..2 or 0,1,2; mean and t-interval.")] = None,
    separate: Annotated[bool, typer.Option("--separate", help="Another protocol: a column of its own.")] = False,
    markdown: Annotated[Path | None, typer.Option(help="Write the table here; by default to stdout.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the table here as CSV.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the table here as JSON.")] = None,
    grid: Annotated[Path | None, typer.Option(help="Write images side by side here (.png); alone, no metrics.")] = None,
    rows: Annotated[int, typer.Option(help="Of the grid: prompts, or classes.")] = 4,
    across: Annotated[bool, typer.Option("--across", help="The grid has a row for each subject.")] = False,
    baselines: Annotated[bool, typer.Option(help="Also measure the teachers behind students.")] = True,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps; by default the fastest there is.")] = "auto",
    download: Annotated[bool, typer.Option("--download", help="Fetch a published student that is missing.")] = False,
) -> None:
    """Measure several subjects under one protocol, teachers and real data beside them. Markdown on stdout."""
    from dmd2cli.cli.candidates import candidates
    from dmd2cli.cli.comparing import compared
    from dmd2cli.cli.figure import figure_of
    from dmd2cli.cli.measuring import Wishes, chosen_of, options_of, seeds_of
    from dmd2cli.cli.outputs import Outputs
    from dmd2cli.comparison import Comparison

    found, many = candidates(subjects), seeds_of(seed, seeds)
    files = Outputs(markdown, csv, json_file, grid)
    options = options_of(reference, protocol, extractor, model, weights, allow_small)
    figure = None if grid is None else figure_of(rows, many[0], prompts, column)
    table = Comparison(separate)
    wanted = grid is None or metrics is not None
    chosen = None if metrics is None else chosen_of(metrics)
    counts = (n, many, baselines, device)
    wishes = Wishes(chosen, options, *counts, prompts=prompts, column=column, per_prompt=per_prompt)
    compared(found, wishes if wanted else None, table, figure, download, device)
    files.write(table if wanted else None, figure, across)
