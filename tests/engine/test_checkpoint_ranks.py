"""Checkpoints of two ranks: written together, read in any layout and by one process, failing together."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from two_ranks_checkpoint import same, whole

from dmd2cli.engine import checkpoint

SCRIPT = Path(__file__).with_name("two_ranks_checkpoint.py")


def one(step):
    """The state of the two ranks in one process."""
    return {"model": whole(step), "plain": whole(step)["w"], "updates": torch.tensor(step)}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """The folder that two ranks have written, and what each of them was told."""
    folder = tmp_path_factory.mktemp("ranks") / "checkpoints"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", SCRIPT, folder]
    place = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=place, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder, [Path(f"{folder}.rank{rank}").read_text().splitlines() for rank in (0, 1)]


def test_what_two_ranks_wrote_sharded_is_read_by_one(ranks):
    folder, _ = ranks
    assert same(checkpoint.load(folder / checkpoint.name(10), one(0)), 10)


def test_every_rank_writes_its_own_shards(ranks):
    folder, _ = ranks
    assert len(list((folder / checkpoint.name(10)).glob("*.safetensors"))) == 2


def test_a_failure_on_one_rank_is_told_on_both_and_nothing_is_left(ranks):
    folder, told = ranks
    full = f"UserError: {folder}: saving step 30 failed: the disk is full; earlier checkpoints are intact"
    for said in told:
        assert said[0] == f"shard: {full}" and said[2] == f"seal: {full}"
    assert [said[1].split()[1] for said in told] == ["OSError:", "UserError:"]
    assert all("No space left" in said[1] for said in told)


def test_damage_is_told_on_both(ranks):
    folder, (first, second) = ranks
    assert first[3] == second[3]
    assert first[3].startswith(f"damage: {folder / checkpoint.name(20)}: damaged checkpoint: ")
    assert checkpoint.newest(folder) == folder / checkpoint.name(10)
