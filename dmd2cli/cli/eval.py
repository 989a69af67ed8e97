"""dmd2 eval: measure a student or a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    metric: Annotated[str, typer.Argument(help="A metric by name (dmd2 plugins list), or all of the recipe's.")],
    student: Annotated[str | None, typer.Option(help="Run, student folder or file; default: the newest run.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Measure the teacher of this recipe instead.")] = None,
    steps: Annotated[int | None, typer.Option(help="Network calls (student) or sampler steps (teacher).")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; see dmd2 sample.")] = None,
    n: Annotated[int, typer.Option("-n", help="How many samples.")] = 5000,
    seed: Annotated[int, typer.Option(help="Image i is a function of (seed, i).")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result to this file.")] = None,
    baselines: Annotated[bool, typer.Option(help="Also measure the teacher behind a student.")] = True,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps; by default the fastest there is.")] = "auto",
) -> None:
    """Measure, with the diversity, the protocol and the baselines beside every number; JSON on stdout."""
    import json
    from functools import partial

    from dmd2cli.cli.subject import count, metrics_of, subject, writable
    from dmd2cli.engine.checkpoint import write_json
    from dmd2cli.engine.evaluate import evaluate_all
    from dmd2cli.registry import load

    number = count(n, 5000)
    if metric != "all":
        load("metrics", metric)                    # a misspelt name is answered before anything is loaded
    asked = subject(student, teacher, steps, guidance, device)
    writable(json_file)
    behind = asked.teacher() if baselines and asked.teacher else None
    makers = [partial(load("metrics", use), **options) for use, options in metrics_of(metric, asked)]
    name = "student" if asked.teacher else "teacher"
    measured = evaluate_all(makers, asked.source, number, seed, behind, name)
    results = [{"subject": asked.name, **numbers} for numbers in measured]
    found = results if metric == "all" else results[0]
    if json_file is not None:
        write_json(json_file, found)
    print(json.dumps(found, indent=2))
