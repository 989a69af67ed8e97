"""Randomness is a function of (seed, step, stream, position), and of nothing else."""

import pytest
import torch

from dmd2cli.core.random import Numbered, Rng

LIKE = torch.empty(8, 3)


def pieces(rng, size):
    """Eight rows drawn in micro-batches of `size`."""
    return torch.cat([rng.at(slice(i, i + size), 8).normal("eps", LIKE[:size]) for i in range(0, 8, size)])


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_a_stream_does_not_know_the_micro_batch(size):
    assert torch.equal(pieces(Rng(0, 5), size), Rng(0, 5).normal("eps", LIKE))


def test_uniform_times_do_not_know_the_micro_batch():
    whole = Rng(0, 5).uniform("t", LIKE, 0.02, 0.98)
    halves = [Rng(0, 5).at(slice(i, i + 4), 8).uniform("t", LIKE[:4], 0.02, 0.98) for i in (0, 4)]
    assert torch.equal(whole, torch.cat(halves)) and whole.shape == (8,)


def test_a_stream_does_not_know_what_was_drawn_before_it():
    rng = Rng(0, 5)
    rng.normal("other", LIKE), rng.uniform("t", LIKE), rng.index("k", 4)
    assert torch.equal(rng.normal("eps", LIKE), Rng(0, 5).normal("eps", LIKE))


@pytest.mark.parametrize(
    "other",
    [Rng(1, 5), Rng(0, 6), Rng(0, 5).stream("a"), Rng(0, 5).stream("b").stream("a")],
    ids=["seed", "step", "child", "grandchild"],
)
def test_every_part_of_the_key_changes_the_draw(other):
    assert not torch.isclose(other.normal("eps", LIKE), Rng(0, 5).normal("eps", LIKE)).any()


def test_differently_named_streams_differ():
    assert not torch.isclose(Rng(0, 5).normal("eps", LIKE), Rng(0, 5).normal("noise", LIKE)).any()


def test_control_flow_is_the_same_for_every_micro_batch():
    draws = {Rng(0, 3).at(slice(i, i + 2), 8).index("k", 1000) for i in range(0, 8, 2)}
    assert len(draws) == 1


def test_control_flow_reaches_every_index():
    assert {Rng(0, step).index("k", 4) for step in range(64)} == {0, 1, 2, 3}


def test_normals_are_unit_and_uniforms_fill_their_interval():
    like = torch.empty(20_000, 1)
    normal, uniform = Rng(0, 0).normal("n", like), Rng(0, 0).uniform("u", like, 2, 4)
    assert abs(normal.mean()) < 0.03 and abs(normal.std() - 1) < 0.03
    assert 2 <= uniform.min() < 2.01 and 3.99 < uniform.max() < 4 and abs(uniform.mean() - 3) < 0.03


@pytest.mark.parametrize("size", [1, 2, 8])
def test_image_i_does_not_know_its_batch(size):
    chunks = [Numbered(7, range(i, i + size)).normal("noise", LIKE[:size]) for i in range(0, 8, size)]
    assert torch.equal(torch.cat(chunks), Numbered(7, range(8)).normal("noise", LIKE))


def test_image_i_does_not_know_its_place():
    assert torch.equal(Numbered(7, [5, 2]).normal("noise", LIKE[:2])[1], Numbered(7, [2]).normal("noise", LIKE[:1])[0])


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    Rng(0, 0).normal("eps", LIKE), Numbered(0, range(8)).normal("eps", LIKE)
    assert torch.equal(torch.get_rng_state(), before)
