"""Run folders made by hand: a recipe, and whatever numbers a run is to have logged."""

from __future__ import annotations

import json

from dmd2cli.recipe import dump, load

HEALTHY = {
    "generator/skipped": 0, "critic/skipped": 0, "critic/lag": 0.01,
    "health/mean_shift": 0.03, "health/std_ratio": 0.98, "health/brightness": 0.01, "health/contrast": 0.97,
    "health/high_frequency": 0.95, "health/diversity": 0.9,
    "health/conditions": 1.02, "health/real/distinct": 1.0, "health/teacher/error": 0.4, "health/teacher/slope": -0.02,
    "health/gradient/gan_generator": 2.0, "validation/fd-digits": 0.3, "validation/fd-digits/raw": 0.35,
    "validation/score": 0.3,
}  # fmt: skip
"""What a healthy run logs."""


def run_folder(folder, rows=9, command="dmd2 distill digits", overrides=(), **numbers):
    """A run of digits that has logged HEALTHY, but for some numbers: one for all rows, or a list."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(dump(load("digits", ["health.validation=fd-digits", *overrides])))
    (folder / "run.json").write_text(json.dumps({"command": command}))
    values = HEALTHY | {name.replace("__", "/"): value for name, value in numbers.items()}
    with (folder / "metrics.jsonl").open("w") as file:
        for i in range(rows):
            row = {name: v[i] if isinstance(v, list) else v for name, v in values.items()}
            file.write(json.dumps({"step": 200 * (i + 1), **{n: v for n, v in row.items() if v != "absent"}}) + "\n")
    return folder
