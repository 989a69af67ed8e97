"""Run by torchrun: the cases of a group in every rank of one process group; a case costs less than a process.

GROUP FOLDER: what the first rank found goes to FOLDER/NAME-MODE.pt, what went wrong on rank R to FOLDER/rank-R.json.
FOLDER/data is what the cases read.
"""

import json
import sys
import traceback
from pathlib import Path

import cases
import torch
from dmd2_plugins.digits import teacher

from dmd2cli.engine import build, trainer
from dmd2cli.engine.distill import job
from dmd2cli.engine.parallel import joined, leave

READ = []
"""A note for every time that this rank has read the teacher's weights."""
HELD = []
"""Whether this rank had weights, and whether it had all of them, before they were handed out."""


def noting(honest):
    """place_all() that looks at what it is given."""

    def place_all(found, device, world):
        there = [not p.is_meta for module in (*found.learners, *found.frozen) for p in module.parameters()]
        HELD.append([any(there), all(there)])
        honest(found, device, world)

    return place_all


def reading(honest):
    """load_weights() that is counted."""
    return lambda *args: READ.append(1) or honest(*args)


def case(name, mode, folder, world):
    """Walk one case; keep what came of it, with facts that hold on all ranks."""
    found = cases.walk(getattr(cases, sys.argv[1])[name], mode, folder / "data", world)
    found["facts"] = {key: not world.any(not so) for key, so in found["facts"].items()}
    if world.first:
        torch.save(found, folder / f"{name}-{mode}.pt")


def files(folder, world):
    """A whole run with all of its files, sharded."""
    (folder / "run").mkdir(exist_ok=True)
    recipe = cases.recipe_of(cases.WHOLE, "shard", folder / "data", *cases.FILES)
    trainer.train(job(recipe, torch.device("cpu"), world), recipe.run, folder / "run", None, world)


def main(folder):
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    build.place_all, teacher.load_weights = noting(build.place_all), reading(teacher.load_weights)
    errors = {}
    group = [(name, mode) for name, found in getattr(cases, sys.argv[1]).items() for mode in found.modes]
    with joined(cases.recipe_of(cases.WHOLE, "auto", folder).run) as world:
        for name, mode in group:
            try:
                case(name, mode, folder, world)
            except Exception:
                errors[f"{name}-{mode}"] = traceback.format_exc()
        if sys.argv[1] == "FAST":
            files(folder, world)
        (folder / f"rank-{world.rank}.json").write_text(json.dumps({"errors": errors, "read": READ, "held": HELD}))


if __name__ == "__main__":
    main(Path(sys.argv[2]))
    leave(0)
