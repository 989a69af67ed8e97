"""The doctor on real runs: every broken one is named with the right cause, and no healthy one is accused."""

import subprocess
import sys

import pytest
from broken import BROKEN, CALIBRATED, HEALTHY, SEEDS, train

from dmd2cli.doctor.record import read
from dmd2cli.doctor.verdict import diagnose

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """The teacher's noise-image pairs."""
    folder = tmp_path_factory.mktemp("pairs") / "pairs"
    subprocess.run([sys.executable, "-m", "dmd2cli", "pairs", "digits", "-o", str(folder), "-n", "2000"], check=True)
    return folder


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_run_is_called_unhealthy_with_the_right_cause(tmp_path, pairs, name):
    found = diagnose(read(train(name, tmp_path / "run", pairs)))
    assert found.verdict == "unhealthy"
    first, wanted = found.findings[0], BROKEN[name].rule
    assert "unknown" in first.cause if wanted == "UNKNOWN" else first.rule == wanted, found.findings


@pytest.mark.parametrize("name", HEALTHY)
def test_the_healthy_runs_of_the_calibration_are_called_healthy(tmp_path, pairs, name):
    found = diagnose(read(train(name, tmp_path / "run", pairs, CALIBRATED)))
    assert found.verdict == "healthy", found.findings


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name, seeds in SEEDS.items() for seed in seeds])
def test_no_healthy_run_of_another_seed_is_accused(tmp_path, pairs, name, seed):
    found = diagnose(read(train(name, tmp_path / "run", pairs, seed)))
    assert found.verdict == "healthy", found.findings
