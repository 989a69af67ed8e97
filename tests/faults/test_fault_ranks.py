"""Ranks that die, sleep or stop end the job in time and by name; and a run that moves between numbers of ranks."""

import json
import math

import pytest
from left import good, same
from processes import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.faults]
COMMAND = ("distill", "digits", "run.steps=12", "run.timeout=0.2", *SMALL)
MARGIN = {"kill": 10, "sleep": 15, "stop": 45}
"""Seconds beyond run.timeout. One that is stopped by SIGSTOP does not hear torchrun, which waits 30 s to kill it."""
LAUNCHERS = {
    "nproc": ("-m", "dmd2cli", *COMMAND, "--nproc", "2"),
    "torchrun": ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dmd2cli", *COMMAND),
}
BOUND = 1e-3
"""Largest relative difference of a logged value of a run that moved, to one that did not."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory, zygote):
    """A run of two ranks that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert [one.code for one in zygote.ranks(*COMMAND, "-o", folder)] == [0, 0]
    return folder


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("do", MARGIN)
def test_a_rank_that_is_lost_ends_the_job_and_the_same_command_continues(tmp_path, real, whole, launcher, do):
    command, run = LAUNCHERS[launcher], tmp_path / "run"
    done = real(*command, "-o", run, fault={"do": do, "phase": "critic", "step": 8, "rank": 1})
    assert done.code not in (0, None) and done.fault, done.said
    assert done.end - done.fault["time"] < 12 + MARGIN[do], done.said
    said = [line for line in done.lines if "rank 1" in line and "phase 'critic'" in line]
    assert said and "the same command continues" in said[0], done.said
    assert good(run) == [5]
    again = real(*command, "-o", run)
    assert again.code == 0, again.said
    same(run, whole)


def numbers(run):
    """Everything that was logged."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_that_moves_from_two_ranks_to_one_and_back_has_the_losses_of_one_that_did_not(tmp_path, zygote):
    moved, stays = tmp_path / "moved", tmp_path / "stays"
    argv = ("distill", "digits", "run.steps=30", *SMALL)
    assert zygote.run(*argv, "-o", stays).code == 0
    stop = {"do": "TERM", "phase": "critic", "rank": "all"}
    done = zygote.ranks(*argv, "run.parallel=shard", "-o", moved, fault=stop | {"step": 12})
    assert [one.code for one in done] == [130, 130] and good(moved)[-1] == 12, done
    assert len(list((moved / "checkpoints/step-00000012").glob("shard-*"))) == 2
    done = zygote.run(*argv, "-o", moved, fault=stop | {"step": 21})
    assert done.code == 130 and good(moved)[-1] == 21, done.said
    done = zygote.ranks(*argv, "run.parallel=replicate", "-o", moved)
    assert [one.code for one in done] == [0, 0], done
    apart = 0.0
    for ours, theirs in zip(numbers(moved), numbers(stays), strict=True):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert math.isclose(ours[name], theirs[name], rel_tol=BOUND, abs_tol=1e-6), (theirs["step"], name)
            apart = max(apart, abs(ours[name] - theirs[name]) / max(abs(theirs[name]), 1e-3))
    print(f"\nlargest relative difference of a logged value: {apart:.2g}")
