"""A group of cases in one process and in several: what torchrun is started with, and what is compared."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cases
import torch

SCRIPT = Path(__file__).with_name("ranks.py")


def torchrun(ranks, *arguments, env=None, timeout=900):
    """Start a script in so many ranks, one thread each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    place = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | (env or {})
    place["PYTHONPATH"] = os.pathsep.join([str(SCRIPT.parent), *filter(None, [place.get("PYTHONPATH")])])
    return subprocess.run([*command, *map(str, arguments)], env=place, capture_output=True, text=True, timeout=timeout)


class Group:
    """All cases of a group, trained by several ranks into a folder."""

    def __init__(self, name, ranks, folder):
        self.name, self.ranks, self.folder = name, ranks, folder
        done = torchrun(ranks, SCRIPT, name, folder)
        assert done.returncode == 0, done.stderr
        self.said = done.stderr
        self.told = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(ranks)]

    def wrong(self):
        """What differs from one process, by case and mode; errors among it."""
        found = {}
        for name, case in getattr(cases, self.name).items():
            one = cases.walk(case, "none", self.folder / "data")
            for mode in case.modes:
                file = self.folder / f"{name}-{mode}.pt"
                if file.is_file():
                    other = torch.load(file, weights_only=True)
                    found[name, mode] = cases.difference(case, mode, one, other)
                else:
                    found[name, mode] = [told["errors"].get(f"{name}-{mode}", "no result") for told in self.told]
        return {key: value for key, value in found.items() if value}


def pairs(folder, recipe="digits-dmd1", *changes):
    """Pairs for the cases that need some."""
    from dmd2cli.engine.pairs import make, maker
    from dmd2cli.recipe import load

    found = load(recipe, ["sampler.steps=3", *changes])
    make(maker(found, torch.device("cpu"), 1, None), folder, range(32), 16)
