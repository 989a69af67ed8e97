"""Student times: those that are proposed, and those that are wasted."""

from itertools import pairwise

import pytest
from oracles import oracle

from dmd2cli.core.noise import Discrete, RectifiedFlow
from dmd2cli.engine.preflight.times import Open, log_snr, noise_at, proposed, share_at
from dmd2cli.samplers.few_step import check_table

CURVE = [Open(0.1, 0.1, 0.01), Open(1.0, 0.5, 0.21), Open(10.0, 0.9, 1.0)]


def test_a_share_is_found_between_two_levels_in_logarithms():
    assert noise_at(CURVE, 0.11) == pytest.approx(10**-0.5)
    assert share_at(CURVE, 10**-0.5) == pytest.approx(0.11)
    assert noise_at(CURVE, 0.0025) == pytest.approx(0.05) and share_at(CURVE, 0.05) == pytest.approx(0.0025)
    assert share_at(CURVE, 100) == 1.0


@pytest.mark.parametrize("schedule", [Discrete.scaled_linear(), RectifiedFlow(), RectifiedFlow(3.0)])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_proposed_times_fall_from_1_in_equal_steps_of_log_snr_and_are_timesteps(schedule, steps):
    times = proposed(CURVE, schedule, 1.0, steps)
    assert times[0] == 1.0 and len(times) == steps and times == sorted(set(times), reverse=True)
    check_table(schedule, times)
    inner = log_snr(schedule, times)[1:]
    gaps = [b - a for a, b in pairwise(inner)]
    assert all(gap == pytest.approx(gaps[0], rel=0.05) for gap in gaps)


def test_the_clean_end_of_a_flow_has_a_log_snr_and_its_start_has_none():
    assert log_snr(RectifiedFlow(), [1.0, 0.5]) == [None, 0.0]


def test_a_call_on_pure_noise_and_a_call_with_nothing_left_are_told(around):
    late = around(oracle("sd", "v"), "student.times=[1.0, 0.98]").warnings
    early = around(oracle("flow", "flow"), "student.times=[1.0, 0.004]").warnings
    good = around(oracle("sd", "v"), "student.times=[1.0, 0.1]").warnings
    assert "repeats the first" in late[0].says and "nothing is left" in early[0].says and good == []
    assert late[0].rule == early[0].rule == "times" and late[0].change[0].startswith("student.times=[1,")


def test_a_shift_that_does_not_suit_the_times_is_told(around):
    times = "student.times=[1.0, 0.75, 0.5, 0.02]"
    assert around(oracle("flow", "flow"), times).warnings and not around(oracle("flow-3", "flow"), times).findings


def test_proposals_are_overrides_that_a_recipe_takes(around):
    from dmd2cli.recipe import load

    found = around(oracle("edm", "edm"))
    assert len(found.proposals) >= 3 and all(one.because for one in found.proposals)
    for one in found.proposals:
        load("toy-grid25", [one.override])
