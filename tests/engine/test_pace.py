"""What is said of a run's time and memory after its first cycles."""

import re
import time
from itertools import count

import pytest
import torch
from jobs import settings
from test_progress import Hands, Turned

from dmd2cli.engine import pace as module
from dmd2cli.engine.pace import Pace, rounded
from dmd2cli.engine.room import peak

CPU = torch.device("cpu")


def said(job, steps, each, start=0, stop=None, **run):
    """(step, text) of everything that is said; each: step -> seconds."""
    clock, found = Hands(), []
    pace = Pace(job, settings(steps, device="cpu", **run), start, clock=clock)
    for step in range(start + 1, (stop or steps) + 1):
        clock.now += each(step)
        if (text := pace.stepped(step)) is not None:
            found.append((step, re.sub(r", [\d.]+ [GM]iB of memory", "", text)))
    return found


def cycles(seconds, cycle=5):
    """Steps of which that of the student takes six times as long as another, `seconds` in a cycle."""
    return lambda step: seconds * (6 if (step - 1) % cycle == 0 else 1) / (cycle + 5)


# -- what is said ----------------------------------------------------------------------------------------------


def test_it_says_once_what_a_student_update_and_the_run_take():
    (step, text), = said(Turned(), 3600, cycles(0.21))
    assert text == "0.21 s per student update (5 steps each); 720 student updates take 2 min 31 s"
    assert step == 56


def test_memory_is_part_of_it():
    clock = count()
    pace = Pace(Turned(1), settings(100, device="cpu"), 0, clock=lambda: float(next(clock)))
    text = next(text for step in range(1, 100) if (text := pace.stepped(step)))
    found = re.search(r", ([\d.]+) ([GM])iB of memory; ", text)
    assert found is not None
    assert float(found[1]) * {"G": 2**30, "M": 2**20}[found[2]] == pytest.approx(peak(CPU), rel=0.05)


def test_a_run_in_which_every_step_is_an_update_is_told_in_steps():
    assert said(Turned(1), 1200, lambda step: 0.5)[0][1] == "0.5 s per step; 1200 steps take 10 min"


def test_a_slow_start_is_not_in_it():
    assert said(Turned(), 3600, lambda step: 300.0 if step <= 5 else cycles(0.21)(step)) == said(
        Turned(), 3600, cycles(0.21)
    )


def test_neither_is_a_picture_or_a_checkpoint():
    (_, text), = said(Turned(), 3600, lambda step: cycles(0.21)(step) + (3.0 if step == 30 else 0.0))
    assert text.startswith("0.21 s per")


def test_a_warm_up_of_the_critic_is_not_measured_as_if_it_were_the_student():
    (step, text), = said(Turned(5, warmup=100), 3700, lambda step: 0.1 if step <= 100 else cycles(5.0)(step))
    assert step > 106 and text.startswith("5 s per student update (5 steps each); 720 student updates take ")


def test_a_continued_run_says_what_remains_wherever_in_a_cycle_it_begins():
    for start in range(1800, 1805):
        (step, text), = said(Turned(), 3600, cycles(0.21), start=start)
        assert text.startswith("0.21 s per student update (5 steps each); the remaining 3") and step < 1870
    assert text.endswith("the remaining 359 student updates take 1 min 15 s")


@pytest.mark.parametrize(("steps", "at"), [(40, 21), (250, 31), (10_000, 56)])
def test_it_is_said_early_in_short_runs_too(steps, at):
    assert [step for step, _ in said(Turned(), steps, cycles(0.21))] == [at]


def test_slow_cycles_are_not_waited_for():
    assert [step for step, _ in said(Turned(), 5000, cycles(150.0))] == [11]
    assert [step for step, _ in said(Turned(), 5000, cycles(4.0))] == [21]


def test_a_run_of_a_few_updates_says_nothing():
    assert said(Turned(), 20, cycles(0.21)) == []


# -- the limit -------------------------------------------------------------------------------------------------


def test_what_fits_in_the_limit_is_said():
    (_, text), = said(Turned(), 3600, cycles(0.5), time_limit=5.0, stop=100)
    assert text.endswith(
        "; 720 student updates take 6 min; run.time_limit (5 min) is enough for 600 of them: "
        "the run will stop at step ~3000 of 3600 and the same command continues"
    )


def test_time_that_the_warm_up_took_is_not_there_any_more():
    (_, text), = said(Turned(), 3600, lambda step: 150.0 if step == 1 else cycles(0.5)(step), time_limit=5.0)
    assert "is enough for 300 of them: the run will stop at step ~1500 of 3600" in text


def test_of_a_continued_run_it_says_how_far_this_command_comes():
    (_, text), = said(Turned(), 3600, cycles(0.5), start=1000, time_limit=2.0)
    assert "the remaining 520 student updates take 4 min 20 s; run.time_limit (2 min) is enough for 240" in text
    assert "stop at step ~2200 of 3600" in text


def test_a_limit_that_is_long_enough_is_named():
    assert said(Turned(), 3600, cycles(0.21), time_limit=5.0)[0][1].endswith("31 s, within run.time_limit (5 min)")


def test_nothing_is_promised_of_a_limit_that_is_barely_long_enough():
    assert said(Turned(), 3600, cycles(0.21), time_limit=2.6)[0][1].endswith("31 s, about run.time_limit (2 min 36 s)")


def test_the_step_that_is_foretold_is_that_at_which_the_limit_ends():
    (_, text), = said(Turned(), 100_000, cycles(0.37), time_limit=30.0, stop=100)
    step = int(re.search(r"step ~(\d+)", text)[1])
    assert sum(cycles(0.37)(i) for i in range(1, step + 1)) == pytest.approx(1800, rel=0.05)


def test_a_step_short_of_the_end_is_not_rounded_to_the_end():
    assert "will stop at step ~3598 of 3600" in said(Turned(1), 3600, lambda step: 1.0, time_limit=3598.5 / 60)[0][1]


@pytest.mark.parametrize(("number", "text"), [(0, 0), (7, 7), (98, 98), (109, 110), (2749, 2700), (99_999, 100_000)])
def test_a_foretold_step_has_two_digits(number, text):
    assert rounded(number) == text


# -- what it costs ---------------------------------------------------------------------------------------------


def test_it_takes_nothing_once_it_has_spoken():
    pace = Pace(Turned(), settings(100_000, device="cpu"), 0)
    start = time.perf_counter()
    for step in range(1, 20_001):
        pace.stepped(step)
    assert pace.done and (time.perf_counter() - start) / 20_000 < 10e-6


class Event:
    """A CUDA event whose device is ten seconds behind the host, and runs at half its speed."""

    clock, waited, recorded = None, 0, 0

    def __init__(self, enable_timing=False):
        assert enable_timing

    def record(self, stream):
        self.at = 2 * Event.clock.now + 10
        Event.recorded += 1

    def synchronize(self):
        Event.waited += 1

    def elapsed_time(self, other):
        return 1000 * (other.at - self.at)


def test_on_cuda_events_are_read_and_waited_for_once(monkeypatch):
    clock = Hands()
    monkeypatch.setattr(Event, "clock", clock)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: pytest.fail("waited for the device"))
    monkeypatch.setattr(module, "peak", lambda device: 3 * 2**29)
    pace, found = Pace(Turned(), settings(3600), 0, torch.device("cuda"), clock), []
    for step in range(1, 200):
        clock.now += cycles(0.21)(step)
        found += [text] if (text := pace.stepped(step)) else []
    assert found == [
        "0.42 s per student update (5 steps each), 1.5 GiB of memory; 720 student updates take 5 min 2 s"
    ]
    assert (Event.waited, Event.recorded) == (1, 11)
