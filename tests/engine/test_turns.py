"""Whose turn it is."""

from dmd2cli.engine.turns import Turns


def moves(turns, steps=12):
    return [s for s in range(steps) if turns.generator(s)], [s for s in range(steps) if turns.critic(s)]


def test_together_the_critic_moves_at_every_step_and_the_generator_at_every_fifth():
    assert moves(Turns(5)) == ([0, 5, 10], list(range(12)))


def test_alternating_the_generator_takes_the_critics_turn():
    assert moves(Turns(5, alternate=True)) == ([0, 5, 10], [1, 2, 3, 4, 6, 7, 8, 9, 11])


def test_a_warm_up_and_the_start_of_a_stage_shift_the_first_turn():
    assert moves(Turns(3, warmup=4))[0] == [4, 7, 10]
    assert moves(Turns(3, warmup=2, first=5))[0] == [7, 10]
