"""What a run shows of itself: counts, speed, the time left, on a terminal and elsewhere."""

import time
from dataclasses import dataclass

import pytest
from jobs import settings

from dmd2cli.engine.progress import Speed, coarse, counted, duration, progress, summary


@dataclass
class Turned:
    """A job of which every `cycle`-th step after a warm-up moves the student."""

    cycle: int = 5
    warmup: int = 0

    def updates(self, step):
        return max(0, -((self.warmup - step) // self.cycle))


class Hands:
    """A clock that is moved by hand."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def shown(capsys, job, steps, each, done=0, every=50, quiet=False):
    """Lines of a run; each: step done -> seconds it takes."""
    clock = Hands()
    with progress(job, settings(steps, log_every=every), done, quiet, clock) as show:
        for step in range(done + 1, steps + 1):
            clock.now += each(step)
            if step % every == 0 or step == steps:
                show(step, {"critic/denoising": 0.123456})
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_the_student_of_these_tests_moves_first_and_then_at_every_cycle():
    assert [Turned(3).updates(step) for step in range(8)] == [0, 1, 1, 1, 2, 2, 2, 3]
    assert [Turned(3, warmup=2).updates(step) for step in range(7)] == [0, 0, 0, 1, 1, 1, 2]


# -- counts ----------------------------------------------------------------------------------------------------


def test_a_line_has_step_student_updates_speed_time_left_and_terms(capsys):
    lines = shown(capsys, Turned(), 3600, lambda step: 0.125)
    assert lines[3] == "step 200/3600  student update 40/720  8.0 steps/s  7 min left  denoising 0.1235"
    assert lines[-1] == "step 3600/3600  student update 720/720  8.0 steps/s  denoising 0.1235"


@pytest.mark.parametrize("job", [Turned(1), Turned(5, warmup=1000)])
def test_a_run_whose_steps_are_its_updates_or_that_moves_no_student_is_counted_in_steps(capsys, job):
    assert counted(job, 100) == ("step", 100)
    assert shown(capsys, job, 100, lambda step: 2.0)[0] == "step 50/100  2.0 s/step  100 s left  denoising 0.1235"


def test_a_warm_up_of_the_critic_is_not_counted(capsys):
    assert "student update 10/20" in shown(capsys, Turned(5, warmup=50), 150, lambda step: 1.0)[1]


def test_ranks_other_than_the_first_show_nothing(capsys):
    assert shown(capsys, Turned(), 100, lambda step: 1.0, quiet=True) == []


# -- the time left ---------------------------------------------------------------------------------------------


def left(line):
    return next(part for part in line.split("  ") if part.endswith(" left"))


def test_a_slow_first_interval_is_forgotten_as_soon_as_there_is_another(capsys):
    lines = shown(capsys, Turned(), 1000, lambda step: 60.0 if step == 1 else 1.0)
    assert left(lines[0]) == "35 min left" and left(lines[1]) == "15 min left"


def test_pictures_and_checkpoints_now_and_then_do_not_change_it(capsys):
    lines = shown(capsys, Turned(), 1000, lambda step: 100.0 if step % 250 == 0 else 1.0)
    assert [left(line) for line in lines[9:12]] == ["8 min left", "8 min left", "7 min left"]


def test_a_continued_run_counts_only_its_own_steps_and_time(capsys):
    lines = shown(capsys, Turned(), 1000, lambda step: 2.0, done=700)
    assert lines[0] == "step 750/1000  student update 150/200  2.0 s/step  8 min left  denoising 0.1235"


def test_it_follows_a_run_that_gets_slower(capsys):
    lines = shown(capsys, Turned(), 4000, lambda step: 1.0 if step <= 2000 else 3.0)
    assert left(lines[59]) == "50 min left"


@pytest.mark.parametrize("every", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("cycle", [3, 5, 7])
def test_expensive_student_updates_are_in_the_speed_however_seldom_is_logged(every, cycle):
    clock, speed = Hands(), None
    meter = Speed(0, clock)
    for step in range(1, 1001):
        clock.now += 10.0 if (step - 1) % cycle == 0 else 1.0
        if step % every == 0:
            speed = meter.at(step, cycle)
    assert speed == pytest.approx((9 + cycle) / cycle, rel=0.06)


def test_nothing_is_said_of_the_time_before_there_is_a_whole_cycle(capsys):
    assert shown(capsys, Turned(), 100, lambda step: 1.0, every=3)[0] == (
        "step 3/100  student update 1/20  denoising 0.1235"
    )


# -- the terminal ----------------------------------------------------------------------------------------------


def test_the_bar_says_how_far_how_fast_and_how_long(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "140")
    clock = Hands()
    with progress(Turned(), settings(3600), 0, clock=clock) as show:
        clock.now += 25.0
        show(200, {"critic/denoising": 0.5})
        clock.now += 65.0                                      # the time left runs down between two logged steps
    err = capsys.readouterr().err
    for text in ("student updates", "40/720", "8.0 steps/s", "6 min left", "denoising 0.5"):
        assert text in err, text


def test_a_bar_of_a_continued_run_begins_where_that_was(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress(Turned(), settings(3600), 1000, clock=Hands()):
        pass
    assert "200/720" in capsys.readouterr().err


@pytest.mark.parametrize("terminal", [False, True])
def test_a_step_is_shown_in_less_than_50_microseconds(capsys, monkeypatch, terminal):
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    values = {f"critic/term {i}": 0.5 for i in range(8)}
    with progress(Turned(), settings(100_000), 0) as show:
        spent = []
        for step in range(50, 50_000, 50):
            start = time.perf_counter()
            show(step, values)
            spent.append(time.perf_counter() - start)
    assert sorted(spent)[len(spent) // 2] < 50e-6


# -- words -----------------------------------------------------------------------------------------------------


def test_a_summary_has_the_terms_alone_and_the_player_only_where_both_have_one():
    values = {"generator/matching": 1.0, "generator/gradient_norm": 2.0, "generator/weight/gan": 3.0,
              "generator/update_ratio": 4.0, "critic/lag": 5.0, "generator/lag": 6.0, "normal": 7.0}  # fmt: skip
    assert summary(values) == "matching 1  critic/lag 5  generator/lag 6  normal 7"


def test_skipped_updates_are_in_it_if_there_are_any():
    assert summary({"generator/skipped": 0.0, "critic/skipped": 0.0}) == ""
    assert summary({"generator/skipped": 2.0, "critic/skipped": 0.0, "critic/gan": 0.5}) == "skipped 2  gan 0.5"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2134, "0.21 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min"), (151, "2 min 31 s"), (3599.7, "1 h"),
     (4321, "1 h 12 min"), (86399, "1 d"), (273600, "3 d 4 h"), (0.0, "0 s")],
)  # fmt: skip
def test_a_duration_has_two_units_at_most(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.3, "0 s"), (119.6, "120 s"), (430, "7 min"), (7300, "2 h 2 min")])
def test_an_estimate_is_no_more_exact_than_it_can_be(seconds, text):
    assert coarse(seconds) == text
