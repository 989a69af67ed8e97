"""Run folders that were never trained: of any length, with any numbers."""

import json
import random
from pathlib import Path

from PIL import Image

from dmd2cli.recipe import dump, load

SHORT = ["health.every=50", "health.validation=fd-digits", "health.validation.every=100", "run.log_every=50"]
NAMES = [
    "generator/distribution_matching", "generator/gan_generator", "generator/gradient_norm", "generator/update_ratio",
    "critic/joint_critic", "critic/gradient_norm", "critic/update_ratio", "critic/lag", "generator/skipped",
    "health/mean_shift", "health/std_ratio", "health/contrast", "health/diversity", "health/conditions",
    "health/real/distinct", "health/teacher/error", "health/gradient/gan_generator", "health/ema",
    "validation/fd-digits", "validation/fd-digits/raw", "validation/score",
    *(f"health/gap/band-{band}" for band in range(4)), *(f"other/{number}" for number in range(15)),
]  # fmt: skip


def values(step, seed=0):
    """40 numbers of a step that dmd2 doctor finds healthy: all about 1, but for those that must be small."""
    draw = random.Random(seed * 1_000_003 + step)
    small = {"health/mean_shift", "critic/lag", "health/teacher/error", "generator/update_ratio"}
    found = {name: draw.uniform(0.9, 1.1) * (0.02 if name in small else 1.0) for name in NAMES}
    found["generator/skipped"] = 0
    return found | {"validation/score": found["validation/fd-digits"]}


def sheet(path, colour=(200, 60, 60), size=(200, 80)):
    """A picture of samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def run(folder, steps=800, every=50, seed=0, overrides=(), change=None, pictures=2):
    """A run folder. change: (step, values) -> values."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    recipe = load("digits", [*SHORT, f"run.steps={steps}", f"run.seed={seed}", *overrides])
    (folder / "recipe.yaml").write_text(dump(recipe), encoding="utf-8")
    facts = {"command": f"dmd2 distill digits -o {folder}", "seed": seed, "ranks": {"count": 1},
             "hardware": {"name": "x86_64", "device": "cpu", "threads": 1}, "versions": {"torch": "2.8.0"}}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step in range(every, steps + 1, every):
            found = values(step, seed)
            file.write(json.dumps({"step": step} | (change(step, found) if change else found)) + "\n")
    for i in range(1, pictures + 1):
        sheet(folder / "samples" / f"step-{i * steps // pictures:08d}.png", (40 * i % 256, 60, 60))
    return folder
