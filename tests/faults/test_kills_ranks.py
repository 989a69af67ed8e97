"""Thirty kill -9 of ranks of a run of two: the others end by themselves, and the same command ends in the same bits."""

import json

import plan
import pytest
from left import good, same
from processes import SMALL
from test_kills import kept

pytestmark = [pytest.mark.slow, pytest.mark.faults]
COMMAND = ("distill", "digits", f"run.steps={plan.RANK_STEPS}", "run.keep=2", *SMALL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, real):
    """A run of two ranks that was never interrupted, as a person starts it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = real("-m", "dmd2cli", *COMMAND, "-o", folder, "--nproc", "2")
    assert done.code == 0, done.said
    return folder


@pytest.mark.parametrize("chain", range(3))
def test_a_run_of_two_ranks_that_loses_some_ten_times_ends_as_if_it_had_not(tmp_path, zygote, whole, chain):
    run, before, table = tmp_path / "run", [], []
    for fault in plan.ranks(chain):
        who = fault["rank"]
        one = fault | {"rank": 0 if who == "both" else who}
        done = zygote.ranks(*COMMAND, "-o", run, fault=one, both=who == "both")
        died = [one.fault for one in done if one.fault]
        assert len(died) == 1 and [one.code for one in done].count(-9) == 1 + (who == "both"), (fault, done)
        for survivor in [one for one in done if one.code != -9]:
            assert survivor.code == 2 and len(survivor.lines) == 1, (fault, survivor)
            assert f"rank {who} died" in survivor.lines[0], (fault, survivor)
        held = good(run)
        kept(before, held, 2)
        table.append(f"{json.dumps(fault):66} {died[0]['where']:60} {held[-1] if held else '-'}")
        before = held
        assert (len(table) > 1) == bool(held), table
    done = zygote.ranks(*COMMAND, "-o", run)
    assert [one.code for one in done] == [0, 0], done
    same(run, whole)
    print("", "chain of kills: fault, where it happened, step to continue from", *table, sep="\n")
