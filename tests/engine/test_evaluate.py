"""A measurement: every sample once with its condition, baselines and diversity beside it, one draw for all metrics."""

import json

import pytest
import torch

from dmd2cli.diversity import diversity
from dmd2cli.engine.evaluate import evaluate, evaluate_all, measure, measure_all


class Counting:
    """A source whose image i is filled with i; it notes how often it draws."""

    cost = {"nfe": 7, "guidance": 2.0}

    def __init__(self, shift=0):
        self.shift, self.draws = shift, []

    def conditions(self, n):
        return [i % 3 for i in range(n)]

    def draw(self, raw, seed):
        self.draws.append((len(raw), seed))
        for start in range(0, len(raw), 4):
            numbers = torch.arange(start, min(start + 4, len(raw))) + self.shift
            yield numbers.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


class Pairs:
    """A metric that remembers what it saw."""

    name, protocol = "pairs", {"direction": "lower is better"}

    def __init__(self):
        self.seen = []

    def update(self, images, conditions):
        assert len(images) == len(conditions)
        self.seen += zip(images[:, 0, 0, 0].tolist(), conditions, strict=True)

    def compute(self):
        return {"value": float(sum(i for i, _ in self.seen)), "count": len(self.seen)}

    def real(self, n, seed):
        return {"value": float(n + seed)}


def test_a_metric_sees_every_image_once_in_order_with_its_condition():
    metric = Pairs()
    measure(metric, Counting(), 10, seed=3)
    assert metric.seen == [(i, i % 3) for i in range(10)]


def test_numbers_come_with_what_they_cost_to_draw():
    found = measure(Pairs(), Counting(), 10, seed=3)
    assert found["value"] == 45 and found["nfe"] == 7 and found["guidance"] == 2.0 and found["seconds"] >= 0


def test_several_metrics_share_one_draw():
    source, metrics = Counting(), [Pairs(), Pairs()]
    assert [found["value"] for found in measure_all(metrics, source, 10, seed=3)] == [45, 45]
    assert source.draws == [(10, 3)]


def test_a_result_has_its_protocol_its_baselines_and_how_to_repeat_it():
    teacher = Counting(shift=1)
    found = evaluate(Pairs, Counting(), 10, seed=3, teacher=teacher)
    assert found["metric"] == "pairs" and (found["n"], found["seed"], found["value"]) == (10, 3, 45)
    assert found["protocol"] == {"direction": "lower is better"}
    assert found["baselines"]["real"] == {"value": 13} and found["baselines"]["teacher"]["value"] == 55
    assert teacher.draws == [(10, 3)] and json.loads(json.dumps(found)) == found


def test_without_a_teacher_only_real_data_stands_beside():
    assert evaluate(Pairs, Counting(), 10, seed=3)["baselines"].keys() == {"real"}


# -- diversity -------------------------------------------------------------------------------------------------


class Spread(Counting):
    """A source whose images of a condition are `step` grey levels apart."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def draw(self, raw, seed):
        for images in super().draw(raw, seed):
            yield images * self.step


class Varied(Pairs):
    """A metric that knows how diverse real data is."""

    def real(self, n, seed):
        return {"value": 0.0, "diversity": 0.25}


def test_every_measurement_has_the_diversity_of_its_samples():
    images = torch.cat(list(Counting().draw([0] * 10, 3)))
    expected = diversity(images, [i % 3 for i in range(10)])
    assert expected > 0 and measure(Pairs(), Counting(), 10, seed=3)["diversity"] == expected


def test_the_students_diversity_stands_beside_the_teachers_with_their_ratio():
    found = evaluate(Pairs, Spread(3), 10, seed=3, teacher=Spread(4))["diversity"]
    assert found.keys() == {"student", "teacher", "ratio"}
    assert found["ratio"] == pytest.approx(3 / 4) == found["student"] / found["teacher"]


def test_without_baselines_there_is_the_subjects_own_alone():
    assert evaluate(Pairs, Spread(3), 10, seed=3)["diversity"].keys() == {"student"}
    assert evaluate(Pairs, Spread(3), 10, seed=3, name="teacher")["diversity"].keys() == {"teacher"}


def test_a_metric_may_add_the_diversity_of_real_data():
    found = evaluate(Varied, Spread(3), 10, seed=3, teacher=Spread(4))
    assert found["diversity"]["real"] == 0.25 and found["diversity"]["ratio"] == pytest.approx(3 / 4)


@pytest.mark.parametrize("n", [2, 6])
def test_where_there_is_no_pair_or_no_difference_there_is_no_ratio(n):
    found = evaluate(Pairs, Spread(0), n, seed=3, teacher=Spread(0))
    assert found["diversity"]["ratio"] is None and json.loads(json.dumps(found)) == found


def test_all_metrics_are_measured_on_the_same_samples():
    source, teacher = Spread(3), Spread(4)
    found = evaluate_all([Pairs, Varied], source, 10, 3, teacher)
    assert source.draws == teacher.draws == [(10, 3)]
    assert [result["diversity"].get("real") for result in found] == [None, 0.25]
    assert found[0] == evaluate(Pairs, Spread(3), 10, 3, Spread(4)) | {
        k: found[0][k] for k in ("seconds", "baselines")
    }
