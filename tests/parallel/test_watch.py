"""What is said of a rank that does not answer: in a store that is a dictionary, on a clock that does not run."""

import json
import time

import pytest

from dmd2cli.engine import watch
from dmd2cli.engine.watch import Watch, at, here, where


class Store(dict):
    """What a watch asks of torch's store."""

    def set(self, key, value):
        self[key] = value

    def check(self, keys):
        return all(key in self for key in keys)

    def get(self, key):
        return self[key]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(watch, "GRACE", 0.2)
    monkeypatch.setattr(watch, "EVERY", 0.01)
    monkeypatch.setattr(watch, "here", here)
    before = (here.phase, here.step)
    yield
    here.phase, here.step = before


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def second(store):
    """Rank 1 of three, which keeps nothing but what it is asked for."""
    made = Watch(store, 1, 3)
    made.close()
    return made


def seen(store, rank, place, note=1):
    store.set(f"at/{rank}", json.dumps([place, note]))


def test_a_rank_notes_where_it_is_without_being_asked(store):
    at("critic", 7)
    made = Watch(store, 0, 2)
    for _ in range(200):
        if "at/0" in store:
            break
        time.sleep(0.01)
    made.close()
    assert json.loads(store["at/0"])[0] == "phase 'critic' of step 7"


def test_a_phase_stays_in_its_step(store):
    at("data", 4)
    at("save")
    assert str(here) == "phase 'save' of step 4"


def test_one_that_still_speaks_is_stuck_and_one_that_is_silent_died(store, second):
    seen(store, 0, "phase 'data' of step 3", 5)
    seen(store, 2, "phase 'save' of step 2", 6)
    before = second.notes()
    seen(store, 0, "phase 'data' of step 3", 17)
    assert where(0, before, second.notes()) == "rank 0 is stuck in phase 'data' of step 3"
    assert where(2, before, second.notes()) == "rank 2 died, last seen in phase 'save' of step 2"


def test_one_that_never_spoke_never_began(second):
    assert where(2, second.notes(), second.notes()) == "rank 2 never began"


def test_missing_are_those_who_never_came_to_say_that_they_gave_up(store, second):
    seen(store, 0, "phase 'data' of step 3")
    store.set("gave-up/2", "")
    assert second.missing() == "rank 0 died, last seen in phase 'data' of step 3"
    assert store.check(["lost", "gave-up/1"])


def test_if_all_gave_up_nobody_is_missing(store, second):
    store.set("gave-up/0", "")
    store.set("gave-up/2", "")
    assert second.missing() == ""


def test_an_error_of_one_rank_is_told_by_that_rank(store, second):
    assert not second.others_ended() and second.ended(1) is False
    assert store.check(["ended/1"])
    store.set("ended/2", "")
    assert second.others_ended() and second.ended(1) is True


def test_an_error_that_all_have_is_told_by_the_first(store):
    made = [Watch(store, rank, 2) for rank in (0, 1)]
    for one in made:
        one.over.clear()
    assert made[0].ended(0) is False and made[1].ended(1) is True
    for one in made:
        one.close()


def test_a_rank_whose_store_is_gone_says_nothing_more(store):
    def gone(key, value):
        raise RuntimeError("Connection reset by peer")

    store.set = gone
    made = Watch(store, 0, 2)
    made.thread.join(5)
    assert not made.thread.is_alive()


def test_who_sleeps_while_another_gave_up_is_ended(store, monkeypatch):
    ended = []
    monkeypatch.setattr(watch.os, "_exit", lambda number: ended.append(number))
    store.set("lost", "")
    made = Watch(store, 0, 2)
    for _ in range(300):
        if ended:
            break
        time.sleep(0.01)
    made.close()
    assert ended[0] == 2
