"""Curves: what is left of a long one, where its points are, and at which numbers the ticks are."""

from pathlib import Path

import long_runs
import numpy as np
import pytest

from dmd2cli.doctor.record import Record, read
from dmd2cli.recipe import load
from dmd2cli.report.axis import Axis, label, spanning
from dmd2cli.report.chart import Drawn, apart, chart, path
from dmd2cli.report.curve import Curve, curve
from dmd2cli.report.signals import grouped, title


def test_a_spike_of_one_step_in_a_hundred_thousand_is_kept():
    value = np.ones(100_000)
    value[[12_345, 54_321]] = 900.0, -7.0
    found = Curve(np.arange(100_000.0), value).thinned(100)
    assert len(found) <= 200 and found.value.max() == 900 and found.value.min() == -7
    assert found.step[found.value.argmax()] == 12_345 and (np.diff(found.step) > 0).all()


def test_a_part_without_a_finite_value_stays_a_gap():
    value = np.ones(10_000)
    value[4000:6000] = np.nan
    found = Curve(np.arange(10_000.0), value).thinned(50)
    lost = found.step[np.isnan(found.value)]
    assert len(lost) == 10 and lost.min() == 4000 and lost.max() < 6000


def test_a_short_curve_is_left_as_it_is():
    found = Curve(np.arange(20.0), np.arange(20.0))
    assert found.thinned(10) is found and found.smoothed(10) is None


def test_smoothing_averages_over_a_thirtieth_of_the_run():
    rough = np.where(np.arange(3000) % 2, 1.0, -1.0) + np.linspace(0, 10, 3000)
    found = Curve(np.arange(3000.0), rough).smoothed(100)
    assert len(found) == 100 and np.abs(found.value - found.step * 10 / 2999).max() < 0.2


def test_a_path_is_broken_at_gaps_and_a_value_alone_is_a_dot():
    axis = Axis(0, 4, 0, 40), Axis(0, 1, 100, 0)
    found = path(Curve(np.arange(5.0), np.array([0.0, 1.0, np.nan, 0.5, np.nan])), *axis)
    assert found == "M0.0,100.0h0L10.0,0.0M30.0,50.0h0"


def test_a_measurement_that_is_logged_again_counts_once():
    values = [0.4, 0.4, 0.4, 0.3, 0.3, 0.3, 0.3]
    rows = [{"step": float(i), "validation/x": v, "critic/denoising": v} for i, v in enumerate(values)]
    run = Record(Path(), load("digits"), {}, rows)
    assert curve(run, "validation/x").step.tolist() == [0, 3, 6] and len(curve(run, "critic/denoising")) == 7


@pytest.mark.parametrize(
    ("values", "log", "labels"),
    [
        ([0.0, 1.0], False, ["0", "0.25", "0.5", "0.75", "1"]),
        ([1e-5, 1.0], True, None),
        ([3.0, 3.0], False, None),
        ([-1e300, 1e300], False, None),
        ([np.nan], False, None),
    ],
)
def test_an_axis_fits_its_numbers(values, log, labels):
    axis = spanning(np.array(values), [], 100, 0)
    found = axis.ticks(6)
    assert axis.log is log and 2 <= len(found) <= 7 and all(0 <= place <= 100 for place, _ in found)
    assert labels is None or [text for _, text in found] == labels


def test_a_bound_is_always_on_the_picture():
    drawn = [Drawn("", 0, Curve(np.array([1.0, 2.0]), np.array([0.01, 0.02])))]
    found = chart("health/mean_shift", "x", "", drawn, (-np.inf, 0.25), None, 2.0, 2, 100)
    (bound,) = found.bounds
    assert found.y.end < bound.y < found.y.start and bound.top == found.y.end and "bound 0.25" in found.alt


def test_letters_at_the_ends_of_lines_do_not_lie_on_each_other():
    drawn = [Drawn(letter, i, Curve(np.array([1.0]), np.array([1.0]))) for i, letter in enumerate("ABCDEFGHIJKL")]
    found = chart("x", "x", "", drawn, (-np.inf, np.inf), None, 1.0, 1, 100)
    heights = sorted(line.end for line in apart(found.lines))
    assert np.diff(heights).min() > 9 and min(heights) > 0 and max(heights) < 180


@pytest.mark.parametrize(
    ("value", "text"), [(1e5, "100k"), (0.1 + 0.2, "0.3"), (2e6, "2M"), (1e-5, "1e-05"), (-50, "-50"), (9000, "9000")]
)
def test_labels_are_short(value, text):
    assert label(value) == text


def test_every_logged_number_has_its_place(healthy):
    run = read(healthy)
    found = grouped(run.names)
    assert sorted(n for _, names in found for n in names) == sorted(set(long_runs.NAMES) - {"validation/score"})
    assert [group.title for group, _ in found][:2] == ["Validation", "Student against teacher"]
    assert title("critic/gradient_norm") == "Critic: gradient norm" and title("validation/fd-digits") == "fd-digits"
