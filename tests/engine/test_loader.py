"""Batches by position: the same items whatever the micro-batch, and every item once in a pass."""

from collections import Counter
from dataclasses import dataclass

import pytest
import torch

from dmd2cli.core.noise import RectifiedFlow
from dmd2cli.core.weighting import uniform
from dmd2cli.data.base import Loader, Paired, item
from dmd2cli.protocols import Example, Teacher


@dataclass
class Numbers:
    """Item i is the number i, its condition too."""

    n: int

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return Example(torch.tensor([float(i)]), i)


def encode(raw):
    rows = torch.tensor([[-1.0 if c is None else float(c)] for c in raw])
    return {"number": rows}, {"number": torch.full_like(rows, -1)}


TEACHER = Teacher(torch.nn.Identity(), RectifiedFlow(), (1,), uniform, encode, lambda x: x, torch.nn.Identity)


def loader(batch=6, micro_batch=6, seed=0, prompts=10, real=14):
    return Loader(seed, batch, micro_batch, torch.device("cpu"), Numbers(prompts), Numbers(real))


def seen(load, step):
    """(rows, conditions, real items, their conditions) of a step, its micro-batches joined."""
    batches = load(step, TEACHER)
    names = lambda part: torch.cat([part(b)[:, 0] for b in batches]).tolist()          # noqa: E731
    rows = [i for b in batches for i in range(b.rows.start, b.rows.stop)]
    return rows, names(lambda b: b.cond["number"]), names(lambda b: b.x), names(lambda b: b.real_cond["number"])


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_a_step_has_the_same_items_whatever_the_micro_batch(micro_batch):
    for step in (0, 1, 7):
        assert seen(loader(micro_batch=micro_batch), step) == seen(loader(), step)
    assert [len(b) for b in loader(micro_batch=micro_batch)(0, TEACHER)] == [micro_batch] * (6 // micro_batch)


def test_a_step_needs_no_step_before_it():
    load = loader()
    for step in range(7):
        load(step, TEACHER)
    assert seen(load, 7) == seen(loader(), 7)


def test_every_item_comes_once_in_a_pass_and_every_pass_has_its_own_order():
    load = loader(batch=7, micro_batch=7)
    passes = [[x for step in (2 * k, 2 * k + 1) for x in seen(load, step)[2]] for k in range(5)]
    assert all(sorted(found) == list(range(14)) for found in passes)
    assert len({tuple(found) for found in passes}) == 5


def test_a_batch_across_two_passes_loses_and_repeats_nothing():
    load = loader(batch=4, micro_batch=4)
    found = Counter(x for step in range(7) for x in seen(load, step)[2])
    assert found == Counter({i: 2 for i in range(14)})


def test_a_batch_larger_than_the_data_goes_round():
    assert Counter(seen(loader(batch=28, micro_batch=7), 0)[2]) == Counter({i: 2 for i in range(14)})


def test_a_real_item_keeps_its_own_condition():
    _, _, real, condition = seen(loader(), 3)
    assert real == condition


def test_conditions_to_draw_for_are_not_those_of_the_real_items():
    both = Loader(0, 14, 14, torch.device("cpu"), Numbers(14), Numbers(14))
    _, prompts, real, _ = seen(both, 0)
    assert prompts != real


def test_another_seed_is_another_order():
    assert seen(loader(seed=1), 0) != seen(loader(seed=0), 0)


def test_without_prompts_every_condition_is_none_and_without_data_there_is_no_x():
    (batch,) = Loader(0, 4, 4, torch.device("cpu"))(0, TEACHER)
    assert batch.cond["number"].tolist() == [[-1.0]] * 4 and batch.x is None and batch.real_cond == {}


def test_the_null_condition_has_a_row_for_every_condition():
    (batch,) = loader()(0, TEACHER)
    assert batch.null["number"].tolist() == [[-1.0]] * 6 and len(batch) == batch.total == 6


def test_an_item_is_a_function_of_seed_stream_and_position():
    assert [item(0, "a", p, 5) for p in range(10)] == [item(0, "a", p, 5) for p in range(10)]
    assert [item(0, "a", p, 50) for p in range(50)] != [item(0, "b", p, 50) for p in range(50)]


@dataclass
class Couples:
    """Pair i is noise -i and image i."""

    n: int

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return Example(torch.tensor([float(i)]), 100 + i, torch.tensor([-float(i)]))


def paired(n, matched, micro_batch=6, **more):
    pairs = Paired(Couples(8), n, matched)
    return Loader(0, 6, micro_batch, torch.device("cpu"), Numbers(10), Numbers(14), pairs, **more)


@pytest.mark.parametrize("matched", [False, True])
@pytest.mark.parametrize("n", [2, 6])
def test_pairs_are_the_same_whatever_the_micro_batch(n, matched):
    for step in (0, 3):
        whole, parts = paired(n, matched)(step, TEACHER), paired(n, matched, 3)(step, TEACHER)
        assert [len(b.pair.x) for b in parts] == [n // 2, n // 2]
        for pick in (lambda b: b.pair.x, lambda b: b.pair.noise, lambda b: b.pair.cond["number"]):
            assert torch.cat([pick(b) for b in parts]).equal(torch.cat([pick(b) for b in whole]))
        assert torch.cat([b.cond["number"] for b in parts]).equal(torch.cat([b.cond["number"] for b in whole]))


def test_a_pass_over_the_pairs_reads_each_once():
    load = paired(2, False)
    seen = [float(x) for step in range(4) for b in load(step, TEACHER) for x in b.pair.x]
    assert sorted(seen) == list(range(8))


def test_a_pair_keeps_its_noise_and_its_condition():
    (batch,) = paired(3, False)(1, TEACHER)
    assert batch.pair.noise.equal(-batch.pair.x) and batch.pair.cond["number"].equal(100 + batch.pair.x)
    assert batch.pair.where is None


def test_matched_pairs_give_their_rows_of_the_batch_their_conditions():
    (batch,) = paired(3, True)(1, TEACHER)
    assert batch.pair.where.tolist() == [0, 2, 4]
    assert batch.cond["number"][[0, 2, 4]].equal(batch.pair.cond["number"])
    assert (batch.cond["number"][[1, 3, 5]] < 100).all()
    assert [batch.raw[i] for i in (0, 2, 4)] == [100 + int(x) for x in batch.pair.x]


def test_conditions_may_be_those_of_the_real_batch():
    load = Loader(0, 6, 6, torch.device("cpu"), Numbers(10), Numbers(14), prompts_of_real=True)
    (batch,) = load(2, TEACHER)
    assert batch.cond["number"].equal(batch.real_cond["number"])
    (batch,) = paired(3, True, prompts_of_real=True)(2, TEACHER)
    assert batch.cond["number"][[1, 3, 5]].equal(batch.real_cond["number"][[1, 3, 5]])
    assert (batch.real_cond["number"] < 100).all()
