"""The null condition, and how much guidance a teacher bears."""

import pytest
from conftest import LABELS
from oracles import nulled, oracle, rolled

from dmd2cli.engine.preflight.conditions import Asked, error_at, largest


def test_labels_that_are_left_out_make_a_null_condition(around):
    found = around(oracle("edm", "edm"))
    assert found.null.shapes and found.null.same and found.null.differs and found.null.empty_prompt is None
    assert found.null.effect > 0.5 and found.null.error < 1.02


@pytest.mark.parametrize(
    ("null", "says"),
    [
        (lambda cond: cond, "not the same in all rows"),
        (rolled, "not the same in all rows"),
        (lambda cond: {"label": cond["label"][:, :4]}, "other parts or shapes"),
    ],
)
def test_a_null_condition_that_is_none_is_named(around, null, says):
    found = around(nulled(null))
    assert {one.rule for one in found.findings} == {"null"} and says in found.findings[0].says


def test_a_condition_that_the_network_does_not_read_is_named(around):
    found = oracle("edm", "edm")
    found.denoiser.backbone.exact._prior = lambda cond: found.denoiser.backbone.exact.weights.double().log()
    (one,) = around(found).findings
    assert (one.rule, one.signal) == ("null", "null/effect")


def test_a_recipe_that_asks_for_no_condition_has_no_null_to_be_judged(around):
    found = around(oracle("edm", "edm"), data=("data.real={use: gmm, layout: ring8, std: 0.2}",))
    assert found.verdict == "ready" and found.null is None


def test_guidance_drives_the_prediction_away_and_the_largest_scale_that_is_better_than_linear_is_proposed(around):
    found = around(oracle("edm", "edm"), "losses.distribution_matching.guidance=2.5")
    errors = [one.error for one in found.scales]
    assert errors[0] < 1.02 and errors[2:] == sorted(errors[2:]) and errors[-1] > 3 and found.scales[0].moved < 1e-6
    most = largest(found.scales, 1.0)
    assert [p.override for p in found.proposals][3:] == ([Asked().override(most)] if most else [])


def test_more_guidance_than_the_teacher_bears_is_a_warning_and_a_range_is_none(around):
    (one,) = around(oracle("edm", "edm"), "losses.distribution_matching.guidance=12").warnings
    assert one.rule == "guidance" and one.change[0].startswith("losses.distribution_matching.guidance=")
    ranged = around(oracle("edm", "edm"), "student.guidance={min: 1, max: 12}")
    assert ranged.warnings == [] and ranged.guidance == Asked(12.0, range=True)


def test_an_unconditional_teacher_has_neither(around):
    found = around(oracle("edm", "edm"), data=(LABELS,))
    assert found.null is not None and len(found.scales) == 8


def test_errors_between_two_scales_are_interpolated(around):
    scales = around(oracle("edm", "edm")).scales
    assert scales[1].error < error_at(scales, 1.75) < scales[2].error and error_at(scales, 20) > scales[-1].error
