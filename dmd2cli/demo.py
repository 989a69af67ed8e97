"""The main job, whole, on real data: distil the digits teacher, measure teacher and student, draw both."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from dmd2cli import registry
from dmd2cli.data.base import Loader
from dmd2cli.engine.build import loader, teacher_source
from dmd2cli.engine.checkpoint import write_json
from dmd2cli.engine.distill import job
from dmd2cli.engine.evaluate import measure_all
from dmd2cli.engine.run import run
from dmd2cli.images import grid, save_strips
from dmd2cli.protocols import Metric
from dmd2cli.recipe import Recipe, load
from dmd2cli.recipe_build import check
from dmd2cli.samplers.heun import Heun
from dmd2cli.source import Source
from dmd2cli.student import load_student

N, SEEDS, CLASSIFIERS = 5000, (1000, 1001, 1002), (0, 1, 2)
"""Samples per evaluation; evaluation seeds, used for nothing else; feature networks, the first is the headline."""
COLUMNS = {
    "precision": "precision", "recall": "recall", "diversity": "diversity", "class_accuracy": "class accuracy",
    "memorisation_ratio": "memorisation",
}  # fmt: skip
"""Further numbers of a row, where they stand in the table, and what it calls them."""


def demo(folder: Path, overrides: Sequence[str] = ()) -> None:
    """Train in folder (or continue, or reuse what is finished there), print the table, write quickstart.{png,json}."""
    started, recipe = time.monotonic(), load("digits", overrides)
    check(recipe)
    run(recipe, folder, job, command="dmd2 demo")
    trained = time.monotonic() - started
    student, teacher = load_student(folder), teacher_source(recipe, torch.device("cpu"))
    subjects = {
        f"teacher, {teacher.sampler.nfe} calls": teacher,
        "teacher, 1 call": Source(teacher.teacher, teacher.network, Heun(1)),
        f"student, {student.source.sampler.nfe} call": student.source,
    }
    print(f"measuring: {len(SEEDS)} x {N} samples of teacher and student each", file=sys.stderr)
    rows = {"real (floor)": real()} | {name: measured(source) for name, source in subjects.items()}
    picture(recipe, teacher, student.source, folder / "quickstart.png")
    seconds = {"training": round(trained, 1), "all": round(time.monotonic() - started, 1)}
    write_json(folder / "quickstart.json", {"n": N, "seeds": SEEDS, "rows": rows, "seconds": seconds})
    report(rows, folder, seconds)


def metrics() -> list[Metric]:
    """fd-digits in each feature space."""
    return [registry.load("metrics", "fd-digits")(classifier=c) for c in CLASSIFIERS]


def real() -> dict[str, Any]:
    """The row of N bootstrapped real digits."""
    return spread([[dict(metric.real(N, seed)) for metric in metrics()] for seed in SEEDS], nfe=0)


def measured(source: Source) -> dict[str, Any]:
    """The row of a source: N samples for each seed, drawn once for all feature spaces."""
    return spread([measure_all(metrics(), source, N, seed) for seed in SEEDS], source.sampler.nfe)


def spread(found: Sequence[Sequence[Mapping[str, Any]]], nfe: int) -> dict[str, Any]:
    """Means over seeds in the headline space; FD's standard deviation; its mean in the other spaces."""
    head = [per_space[0] for per_space in found]
    keys = [k for k in COLUMNS if k in head[0]]
    values = [row["value"] for row in head]
    row: dict[str, Any] = {"nfe": nfe, "fd_digits": float(np.mean(values))}
    row["fd_digits_std"] = float(np.std(values, ddof=1))
    row |= {k: float(np.mean([r[k] for r in head])) for k in keys}
    row["fd_other_classifiers"] = [
        float(np.mean([per_space[i]["value"] for per_space in found])) for i in range(1, len(found[0]))
    ]
    if "seconds" in head[0]:
        row["ms_per_image"] = 1000 * float(np.median([r["seconds"] for r in head])) / N
    return row


def picture(recipe: Recipe, teacher: Source, student: Source, path: Path) -> None:
    """Two rows of digits each: real, teacher, student; the generated ones from the same noise."""
    labels = teacher.conditions(20)
    save_strips(
        {
            "real": grid(real_digits(loader(recipe.data, recipe.run, torch.device("cpu")), teacher, labels), 10),
            f"teacher, {teacher.sampler.nfe} network calls": grid(teacher.images(labels, seed=0), 10),
            f"student, {student.sampler.nfe} network call": grid(student.images(labels, seed=0), 10),
        },
        path,
    )


def real_digits(data: Loader, teacher: Source, labels: Sequence[Any]) -> torch.Tensor:
    """One real image for every label, no image twice."""
    assert data.real is not None
    left = [data.real[i] for i in range(len(data.real))]
    found = [left.pop(next(i for i, e in enumerate(left) if e.condition == label)).x for label in labels]
    return teacher.teacher.decode(torch.stack([x for x in found if x is not None]))


def report(rows: Mapping[str, Mapping[str, Any]], folder: Path, seconds: Mapping[str, float]) -> None:
    """The table and the next commands, on stdout."""
    table = Table("method", "NFE", "FD-digits", *COLUMNS.values(), "ms / image")
    for name, row in rows.items():
        cells = [f"{row[k]:.3f}" if k in row else "" for k in COLUMNS]
        fd = f"{row['fd_digits']:.3f} ± {row['fd_digits_std']:.3f}"
        table.add_row(name, str(row["nfe"] or ""), fd, *cells, f"{row['ms_per_image']:.2f}" if row["nfe"] else "")
    console = Console(width=124)
    console.print(table)
    others = {name: " ".join(f"{v:.3f}" for v in row["fd_other_classifiers"]) for name, row in rows.items()}
    console.print("FD with two classifiers of other seeds: " + "; ".join(f"{k} {v}" for k, v in others.items()))
    console.print(
        f"{N} samples, mean ± standard deviation over {len(SEEDS)} evaluation seeds; "
        f"trained {seconds['training']:.0f} s, all {seconds['all']:.0f} s\n"
        f"picture: {folder / 'quickstart.png'}\n\nnext:\n"
        f"  dmd2 sample --student {folder} --labels 0,1,2,3 -o grid.png\n"
        f"  dmd2 eval fd-digits --student {folder} -n 5000\n"
        f"  dmd2 doctor {folder}\n"
        f"  dmd2 report {folder}\n"
        f"  dmd2 export {folder} --format torch-export -o student.pt2\n"
        "  dmd2 recipes copy digits my.yaml    # then edit it and: dmd2 distill my.yaml",
        highlight=False,
    )
