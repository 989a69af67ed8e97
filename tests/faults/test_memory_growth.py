"""Memory does not grow: the slope of the resident memory over thousands of steps with all side work on."""

import json

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.faults]
TOY = ("distill", "toy-grid25", "teacher.pretrain_steps=20", "sampler.steps=4", "run.batch=32", "run.threads=1",
       "run.device=cpu", "run.log_every=10", "run.save_every=100", "run.preview_every=250")  # fmt: skip
BOUND = 6 * 2**20
"""Bytes that a straight line through the samples may rise over what is looked at."""


def growth(file, first):
    """(what a straight line rises by from step `first` to the end, mean) of the resident memory, in bytes."""
    step, size = np.array([json.loads(line) for line in file.read_text().splitlines()], dtype=float).T
    late = step >= first
    assert late.sum() > 100
    slope = np.polyfit(step[late], size[late], 1)[0]
    return slope * (step[late][-1] - step[late][0]), size[late].mean()


def test_one_process_does_not_grow_over_five_thousand_steps(tmp_path, zygote):
    fault = {"do": "rss", "every": 10, "to": str(tmp_path / "rss")}
    done = zygote.run(*TOY, "run.steps=5000", "-o", tmp_path / "run", fault=fault, seconds=900)
    assert done.code == 0, done.said
    rise, mean = growth(tmp_path / "rss-0", 1000)
    print(f"\n{rise / 2**20:+.2f} MiB over 4,000 steps at {mean / 2**20:.0f} MiB")
    assert rise < BOUND


def test_two_ranks_do_not_grow_over_a_thousand_steps(tmp_path, zygote):
    fault = {"do": "rss", "every": 4, "to": str(tmp_path / "rss"), "rank": "all"}
    argv = (*TOY, "run.steps=1000", "run.save_every=50", "-o", tmp_path / "run")
    done = zygote.ranks(*argv, fault=fault, seconds=600)
    assert [one.code for one in done] == [0, 0], done
    for rank in (0, 1):
        rise, mean = growth(tmp_path / f"rss-{rank}", 400)
        print(f"\nrank {rank}: {rise / 2**20:+.2f} MiB over 600 steps at {mean / 2**20:.0f} MiB")
        assert rise < BOUND
