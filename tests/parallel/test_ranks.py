"""Two ranks train as one process does, up to the order of sums; all small cases in one process group."""

import json

import cases
import numpy as np
import torch
from group import Group, pairs
from PIL import Image
from safetensors.torch import load_file

from dmd2cli.engine import trainer
from dmd2cli.engine.distill import job

CASE = cases.FAST["ragged"]


def test_two_ranks_train_as_one_process_does(tmp_path):
    """One test, since two processes take longer to start than all the rest takes."""
    pairs(tmp_path / "data/pairs")
    group = Group("FAST", 2, tmp_path)
    assert group.wrong() == {}
    check_that_the_first_rank_alone_read_the_weights(group)
    check_that_the_files_are_those_of_one_process(tmp_path)


def test_the_bounds_would_notice_another_training():
    one, other = (cases.walk(CASE, "none", None, cases.ALONE, f"run.seed={seed}") for seed in (0, 1))
    said = cases.difference(CASE, "shard", one, other)
    assert sum("step" in line for line in said) > 5 and sum("apart" in line for line in said) == 4


def check_that_the_first_rank_alone_read_the_weights(group):
    first, second = group.told
    runs = [case for case in cases.FAST.values() if case.recipe.startswith("digits") and "teacher" not in case.recipe]
    assert len(first["read"]) == sum(len(case.modes) for case in runs) + 1 and second["read"] == []
    assert all(held == [True, True] for held in first["held"]) and len(first["held"]) == len(second["held"]) > 8
    assert all(held == [False, False] for held in second["held"])


def check_that_the_files_are_those_of_one_process(folder):
    recipe = cases.recipe_of(cases.WHOLE, "none", folder, *cases.FILES)
    (folder / "alone").mkdir()
    trainer.train(job(recipe, torch.device("cpu")), recipe.run, folder / "alone")
    ours, theirs = folder / "run", folder / "alone"
    names = [[str(p.relative_to(run)) for p in sorted(run.rglob("*")) if "shard-" not in p.name]
             for run in (ours, theirs)]  # fmt: skip
    same = [[name.partition(".tfevents.")[0] for name in found] for found in names]          # of one writer each
    assert same[0] == same[1] and not [name for name in names[0] if "tmp" in name]
    a, b = (load_file(run / "student/model.safetensors") for run in (ours, theirs))
    assert a.keys() == b.keys() and all(torch.allclose(a[key], b[key], rtol=0, atol=2e-5) for key in a)
    contracts = [json.loads((run / "student/student.json").read_text()) for run in (ours, theirs)]
    assert contracts[0]["trained"] == contracts[1]["trained"]
    logged = [[json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
              for run in (ours, theirs)]  # fmt: skip
    assert logged[0] == logged[1] == [1, 2, 3, 4]
    pictures = [np.asarray(Image.open(run / "samples/step-00000004.png").convert("L"), int) for run in (ours, theirs)]
    assert abs(pictures[0] - pictures[1]).max() <= 1
    for step in (2, 4):
        held = sorted(p.name for p in (ours / f"checkpoints/step-{step:08d}").iterdir())
        assert sum("manifest" in name for name in held) == 1 and sum("shard-" in name for name in held) == 2
