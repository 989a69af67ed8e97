"""What training costs beyond its network passes, with bounds: minutes of CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
ATTEMPTS = 4
"""The first within the bound ends it: CPU seconds too grow when other programs fill the caches of the same cores."""

pytestmark = pytest.mark.slow


def measured(tmp_path: Path, name: str, *asked: str) -> dict:
    """The result of a benchmark, in a process of its own with one thread."""
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--json", str(tmp_path / "found.json"), *asked]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    found: dict = json.loads((tmp_path / "found.json").read_text())
    return found


def test_all_that_a_run_does_beside_its_steps_costs_at_most_3_percent_of_them(tmp_path):
    found = list[tuple[float, float]]()
    while len(found) < ATTEMPTS and not any(max(pair) <= 1.03 for pair in found):
        row = measured(tmp_path, "overhead", "digits", "--steps", "500", "--passes", "0")["trainer"]
        found.append((row["ratio"], row["beside"]))
    assert max(found[-1]) <= 1.03, found


def test_signals_of_health_cost_at_most_2_percent_of_the_training(tmp_path):
    found = list[float]()
    while len(found) < ATTEMPTS and not any(share <= 0.02 for share in found):
        found.append(measured(tmp_path, "health", "digits")["share"])
    assert found[-1] <= 0.02, found


def test_the_step_stays_within_8_percent_of_its_bare_passes(tmp_path):
    found = list[float]()
    while len(found) < ATTEMPTS and not any(ratio <= 1.08 for ratio in found):
        found.append(measured(tmp_path, "overhead", "digits", "--steps", "0", "--passes", "30")["engine"]["ratio"])
    assert found[-1] <= 1.08, found


def test_two_ranks_on_two_cores_make_at_least_1_7_times_the_samples_of_one(tmp_path):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there are not two cores")
    found = list[float]()
    while len(found) < ATTEMPTS and not any(speedup >= 1.7 for speedup in found):
        asked = ("digits", "--modes", "replicate", "--kinds", "weak", "--seconds", "60")
        found.append(measured(tmp_path, "scaling", *asked)["cases"]["2 replicate, weak"]["speedup_by_cpu"]["median"])
    assert found[-1] >= 1.7, found
