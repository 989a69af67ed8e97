"""One student for every guidance scale against one student per scale, on the digits.

    python benchmarks/guidance.py [--out runs/guidance] [--scales 1.5 3 5] [--seed 0]

Trains a student with `student.guidance` and one of the same recipe for each fixed scale, or continues them. The
distance is FD in the features of fd-digits, classifier 0, between 5,000 samples of a student and 5,000 of the teacher
guided at that scale: it asks whether a student does what its teacher does, not whether that is good. `floor` is the
distance of 5,000 further teacher samples.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from dmd2_plugins.digits.classifier import embed, load
from dmd2_plugins.digits.metric import FdDigits

from dmd2cli.engine.build import teacher_source
from dmd2cli.engine.checkpoint import write_json
from dmd2cli.engine.distill import job
from dmd2cli.engine.run import run
from dmd2cli.frechet import distance
from dmd2cli.recipe import load as load_recipe
from dmd2cli.source import Source
from dmd2cli.student import Student, load_student

N, TEACHER_SEED, STUDENT_SEED = 5000, 100, 0
COMMON = ("run.threads=1", "run.device=cpu", "run.batch=64", "run.keep=1")
STEPS = {"ranged": 8000, "fixed": 2800}


def trained(folder: Path, seed: int, scale: float | None) -> Student:
    """The student of one scale, or of the range."""
    changes = [*COMMON, f"run.seed={seed}", f"run.steps={STEPS['ranged' if scale is None else 'fixed']}"]
    if scale is not None:
        changes += ["student.guidance=null", f"losses.distribution_matching.guidance={scale}"]
    run(load_recipe("digits-guidance", changes), folder, job, command="guidance.py")
    return load_student(folder)


def features(source: Source, seed: int) -> torch.Tensor:
    """Of N samples, in the units of fd-digits."""
    images = source.images(source.conditions(N), seed)
    return embed(load(0), images)[0] * FdDigits(0).scale


def measured(out: Path, scales: list[float], seed: int) -> dict:
    """Distances of both students to the guided teacher, at each scale."""
    torch.set_num_threads(1)
    teacher = teacher_source(load_recipe("digits-guidance"), torch.device("cpu"))
    ranged, rows = trained(out / f"ranged-{seed}", seed, None), {}
    for scale in scales:
        guided = replace(teacher, guidance=scale)
        reference = features(guided, TEACHER_SEED)
        fixed = trained(out / f"fixed-{scale:g}-{seed}", seed, scale)
        rows[f"{scale:g}"] = {
            "floor": distance(features(guided, TEACHER_SEED + 1), reference),
            "one student per scale": distance(features(fixed.source, STUDENT_SEED), reference),
            "one for all": distance(features(ranged.at_guidance(scale).source, STUDENT_SEED), reference),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/guidance"))
    parser.add_argument("--scales", type=float, nargs="+", default=[1.5, 3.0, 5.0])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows = measured(args.out, args.scales, args.seed)
    columns = list(next(iter(rows.values())))
    print(f"| scale | {' | '.join(columns)} | ratio |\n|{'---|' * (len(columns) + 2)}")
    for scale, row in rows.items():
        ratio = row["one for all"] / row["one student per scale"]
        print(f"| {scale} | {' | '.join(f'{row[c]:.3f}' for c in columns)} | {ratio:.2f} |")
    found = {"rows": rows, "n": N, "seed": args.seed, "steps": STEPS, "overrides": COMMON, "torch": torch.__version__}
    write_json(args.out / f"guidance-{args.seed}.json", json.loads(json.dumps(found)))


if __name__ == "__main__":
    main()
