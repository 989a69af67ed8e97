"""How often the student has moved: a number that every rank, and a run that continues, can work out."""

import pytest

from dmd2cli.engine import build
from dmd2cli.engine.distill import DistillJob
from dmd2cli.engine.phases import Phase
from dmd2cli.engine.turns import Turns
from dmd2cli.recipe import load
from dmd2cli.recipe_stages import staged

STAGES = "stages=[{until: 11, critic: {warmup: 3}}, {until: 20, ttur: 3}, {ttur: 1, critic: {warmup: 0}}]"


@pytest.mark.parametrize("turns", [Turns(1), Turns(5), Turns(3, 4), Turns(2, 1, first=6), Turns(4, first=3)])
def test_moves_are_the_turns_that_were_taken(turns):
    for until in range(turns.first, 40):
        assert turns.moved(until) == sum(turns.generator(step) for step in range(turns.first, until))


@pytest.mark.parametrize("changes", [
    (), (STAGES,), ("critic.warmup=7",), (STAGES, "stages.2.ttur=2", "turns=alternate"),
])  # fmt: skip
def test_updates_of_a_run_are_the_moves_of_all_of_its_stages(changes):
    stages = staged(load("digits", ["run.steps=30", *changes]))
    made = DistillJob(None, [Phase(stage, {}, None) for stage in stages])
    taken = [0]
    for stage in stages:
        turns = build.turns(stage.recipe, stage.first)
        for step in range(stage.first, stage.until):
            taken.append(taken[-1] + turns.generator(step))
    assert len(taken) == 31 and taken[-1] > 0
    assert [made.updates(step) for step in range(31)] == taken
