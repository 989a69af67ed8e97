"""Skipping updates that are not finite: when, how they are counted, and what three in a row mean."""

import math

import pytest
import torch

from dmd2cli.engine.distill import job
from dmd2cli.engine.guard import LIMIT, Guard
from dmd2cli.engine.watch import here
from dmd2cli.recipe import load

CPU = torch.device("cpu")


def number(value):
    return torch.tensor(float(value))


def judged(guard, course, first=0, forgiven=None):
    """Judge one update per letter, "x" not finite, from step `first`; returns what was skipped in the same letters."""
    skips = [
        guard.judge(number(math.nan if letter == "x" else 1), number(1), step, forgiven)
        for step, letter in enumerate(course, first)
    ]
    return "".join("x" if skip else "." for skip in skips)


@pytest.mark.parametrize("norm", [1.0, 0.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("objective", [1.0, -3.0, math.nan, math.inf, -math.inf])
def test_an_update_is_skipped_if_its_gradient_or_its_loss_is_not_finite(norm, objective):
    skip = Guard(CPU).judge(number(norm), number(objective), step=0)
    assert skip.dtype == torch.float32 and skip.shape == ()
    assert skip.item() == (0 if math.isfinite(norm) and math.isfinite(objective) else 1)


@pytest.mark.parametrize(
    ("course", "skipped", "longest", "first"),
    [
        ("....", 0, 0, 0),
        ("..x.", 1, 1, 12),
        (".x.xx.", 3, 2, 13),
        (".xx.x.", 3, 2, 11),                              # the longest row, not the last
        ("x.x.x.x.", 4, 1, 10),
        ("..xxx", 3, 3, 12),
    ],
)
def test_skips_are_counted_in_total_and_in_rows(course, skipped, longest, first):
    guard = Guard(CPU)
    assert judged(guard, course, first=10) == course
    assert guard.found() == (skipped, longest, first)


def test_a_look_begins_a_new_count_of_rows_but_not_of_the_total():
    guard = Guard(CPU)
    judged(guard, ".xx..")
    assert guard.found() == (2, 2, 1)
    assert guard.found()[:2] == (2, 0)
    judged(guard, "..x.", first=5)
    assert guard.found() == (3, 1, 7)


def test_a_row_that_a_look_falls_into_is_counted_from_its_beginning():
    guard = Guard(CPU)
    judged(guard, "..xx")
    assert guard.found() == (2, 2, 2)
    judged(guard, "x", first=4)
    assert guard.found() == (3, 3, 2)


def test_looking_at_every_step_finds_the_same_row():
    guard, seen = Guard(CPU), []
    for step, letter in enumerate(".x.xxx"):
        judged(guard, letter, first=step)
        seen.append(guard.found()[1])
    assert seen == [0, 1, 0, 1, 2, 3]


def test_after_the_limit_nothing_moves_until_somebody_looks():
    guard = Guard(CPU)
    assert judged(guard, "." + "x" * LIMIT + "...x.") == "." + "x" * (LIMIT + 5)
    assert guard.found()[1:] == (LIMIT + 5, 1)
    assert judged(guard, ".x.", first=20) == ".x."


def test_a_forgiven_skip_is_counted_in_the_total_alone():
    guard = Guard(CPU)
    assert judged(guard, "xxxxx", forgiven=number(1)) == "xxxxx"
    assert guard.found()[:2] == (5, 0)
    judged(guard, "xxx", first=5, forgiven=number(0))
    assert guard.found() == (8, 3, 5)


def test_a_forgiven_skip_does_not_end_a_row():
    guard = Guard(CPU)
    judged(guard, "xx")
    judged(guard, "x", first=2, forgiven=number(1))
    judged(guard, "x", first=3)
    assert guard.found() == (4, 3, 0)


def test_a_rank_skips_what_another_one_has_to_skip():
    asked = []

    def agree(flag):
        asked.append(flag.item())
        return torch.ones_like(flag)

    guard = Guard(CPU, agree)
    assert guard.judge(number(1), number(1), step=4).item() == 1
    assert asked == [0] and guard.found() == (1, 1, 4)


def test_ranks_are_asked_at_every_update():
    asked = []
    guard = Guard(CPU, lambda flag: asked.append(flag.item()) or flag)
    judged(guard, ".x.xxxx.")
    assert asked == [0, 1, 0, 1, 1, 1, 1, 0]


def test_the_total_is_all_that_a_continued_run_needs():
    guard, again = Guard(CPU), Guard(CPU)
    judged(guard, "x.xx")
    again.load_state(guard.state())
    judged(again, ".x", first=4)
    assert again.found() == (4, 1, 5)
    assert guard.state().shape == () and guard.found() == (3, 2, 2)


def test_a_state_is_not_changed_by_the_updates_that_follow():
    guard = Guard(CPU)
    judged(guard, "x")
    held = guard.state()
    judged(guard, "x", first=1)
    assert held.item() == 1 and guard.state().item() == 2


def test_judging_never_makes_the_host_wait():
    from torch.utils._python_dispatch import TorchDispatchMode

    class NoRead(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert "local_scalar" not in str(func) and "nonzero" not in str(func), func
            return func(*args, **(kwargs or {}))

    guard, norm, bad = Guard(CPU), number(1), number(math.nan)
    with NoRead():
        for step, value in enumerate([norm, bad, norm, bad]):
            guard.judge(value, norm, step, forgiven=norm)
    assert guard.found()[0] == 2


# -- in training -----------------------------------------------------------------------------------------------

SMALL = ("run.batch=4", "run.steps=20", "run.threads=1", "run.device=cpu", "ttur=1", "student.ema_halflife_images=null")


def in_teacher(work, bad):
    """The teacher answers the first sample with NaN."""

    def spoil(module, args, output):
        return output.index_fill(0, torch.tensor([0]), math.nan) if here.step in bad else output

    work.distillation.teacher.denoiser.register_forward_hook(spoil)


def in_data(work, bad):
    """A real sample is NaN."""

    class Spoilt(list):
        def __getitem__(self, i):
            return super().__getitem__(i) * (math.nan if here.step in bad else 1)

    real = work.loader.real
    real.x = Spoilt(real.x)


def in_gradient(player):
    """A gradient of one weight of a player is infinite."""

    def inject(work, bad):
        p = work.players()[player].parameters[3]
        p.register_hook(lambda grad: grad * math.inf if here.step in bad else grad)

    return inject


CASES = {
    "teacher": (in_teacher, "generator"),
    "data": (in_data, "critic"),
    "generator's gradient": (in_gradient("generator"), "generator"),
    "critic's gradient": (in_gradient("critic"), "critic"),
}


def state(player):
    """Weights and moments in one tensor."""
    moments = [value for p in player.parameters for value in player.optimiser.state[p].values()]
    return torch.cat([t.detach().flatten() for t in [*player.parameters, *moments]])


@pytest.mark.parametrize("case", CASES)
def test_a_bad_update_is_skipped_and_the_run_goes_on(case):
    inject, hit = CASES[case]
    work = job(load("digits", SMALL), torch.device("cpu"))
    inject(work, bad=(2,))
    players, states = work.players(), list[dict]()
    for step in range(5):
        work.step(step)
        states.append({name: state(player) for name, player in players.items()})
    for name in players:
        assert torch.equal(states[1][name], states[2][name]) == (name == hit)
        assert not torch.equal(states[2][name], states[3][name]) and states[4][name].isfinite().all()
    assert {name: player.guard.found() for name, player in players.items()} == {
        name: (1, 1, 2) if name == hit else (0, 0, 0) for name in players
    }


NAMES = {
    "teacher": "the output of teacher was the first that is not finite (64 of 256 values NaN, row 0)",
    "data": "the data batch-0.x was the first that is not finite (256 of 256 values NaN, rows 0-3)",
    "generator's gradient": "the gradient of the weight generator.backbone.",
    "critic's gradient": "the gradient of the weight critic.fake.backbone.",
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_cannot_go_on_stops_and_names_what_went_wrong(case, tmp_path):
    from dmd2cli.engine import trainer
    from dmd2cli.errors import Diverged

    work = job(load("digits", [*SMALL, "run.log_every=1", "run.preview_every=null"]), torch.device("cpu"))
    CASES[case][0](work, bad=range(5, 100))
    with pytest.raises(Diverged) as caught:
        trainer.train(work, work.recipe.run, tmp_path)
    told, hit = str(caught.value), CASES[case][1]
    assert f"3 updates of the {hit} in a row" in told and NAMES[case] in told and "\n" not in told
    assert (tmp_path / "diverged/step-00000006.json").is_file() and "step 6: " in told
