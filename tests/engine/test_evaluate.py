"""A measurement: every sample once with its condition, baselines beside it, one draw for several metrics."""

import json

import torch

from dmd2cli.engine.evaluate import evaluate, measure, measure_all


class Sampler:
    nfe = 7


class Counting:
    """A source whose image i is filled with i; it notes how often it draws."""

    sampler, guidance = Sampler(), 2.0

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
