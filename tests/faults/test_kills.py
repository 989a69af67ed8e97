"""Seventy kill -9 of a training process at chosen instants: the same command ends in the bits it would have had."""

import json

import plan
import pytest
from left import good, same
from processes import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.faults]
COMMAND = ("distill", "digits", f"run.steps={plan.STEPS}", "run.keep=2", *SMALL)
CHAINS = range(7)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, real):
    """A run that was never interrupted, in a process that shares nothing with the others."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = real("-m", "dmd2cli", *COMMAND, "-o", folder)
    assert done.code == 0, done.said
    return folder


@pytest.mark.parametrize("chain", CHAINS)
def test_a_run_killed_ten_times_ends_as_if_it_were_not(tmp_path, zygote, whole, chain):
    run, before, table = tmp_path / "run", [], []
    for fault in plan.single(chain):
        done = zygote.run(*COMMAND, "-o", run, fault=fault)
        assert done.code == -9 and done.fault, (fault, done.said)
        held = good(run)
        kept(before, held, 2)
        table.append(f"{json.dumps(fault):52} {done.fault['where']:60} {held[-1] if held else '-'}")
        before = held
        assert (len(table) > 1) == bool(held), table             # nine of ten after the first checkpoint
    done = zygote.run(*COMMAND, "-o", run)
    assert done.code == 0, done.said
    same(run, whole)
    print("", "chain of kills: fault, where it happened, step to continue from", *table, sep="\n")


def kept(before, held, last):
    """Assert that no checkpoint was lost: each is there, or gave way to so many newer ones."""
    for step in before:
        assert step in held or len([s for s in held if s > step]) >= last, (step, held)


def test_there_are_a_hundred_kills_of_all_kinds_and_most_of_them_after_a_checkpoint():
    single, ranks = [plan.single(c) for c in CHAINS], [plan.ranks(c) for c in range(3)]
    kills = [kill for chain in (*single, *ranks) for kill in chain]
    assert len(kills) == 100 and sum(map(len, ranks)) == 30
    assert sum(len(chain) - 1 for chain in (*single, *ranks)) >= 80          # the tests of the chains assert that
    assert {kill["phase"] for kill in kills if "phase" in kill} == {
        "data", "generator", "critic", "preview", "save", "end",
    }  # fmt: skip
    assert {kill["instant"] for chain in single for kill in chain if kill.get("save")} == {*range(1, 38)}


def test_a_save_has_the_instants_that_the_plan_counts(tmp_path, zygote):
    """So that none of them is missed when the code that saves changes."""
    told = zygote.run(*COMMAND, "-o", tmp_path / "run", fault={"do": "tell", "save": 15, "instant": 1})
    where = [json.loads(line[6:])["where"] for line in told.said.splitlines() if line.startswith("FAULT ")]
    second = where.index("os.rename .model.safetensors.tmp", 1)
    assert second == 37 and where[36].startswith("os.rmdir .step-00000005.gone")
    assert where[20] == "os.rename .step-00000015.tmp" and where[8].startswith("half a write")
