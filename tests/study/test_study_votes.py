"""Order, sides and votes: functions of (study, rater), kept on disk once."""

import sqlite3
import threading

import pytest

from dmd2cli.errors import UserError
from dmd2cli.study.set import load
from dmd2cli.study.turns import order, sides, swapped, waiting
from dmd2cli.study.votes import VOTES, Votes, read_votes


@pytest.fixture
def votes(study):
    found = Votes(study, load(study).id)
    yield found
    found.close()


def test_every_rater_sees_every_pair_in_an_order_of_their_own():
    seen = [order("study", f"rater {k}", 50) for k in range(4)]
    assert all(sorted(one) == list(range(50)) for one in seen)
    assert len({tuple(one) for one in seen}) == 4


def test_order_and_sides_are_the_same_after_a_restart():
    assert order("s", "r", 8) == [5, 1, 0, 3, 6, 4, 2, 7]
    assert [swapped("s", "r", pair) for pair in range(8)] == [True, True, True, False, False, False, True, False]


def test_either_arm_is_on_the_left_equally_often():
    left = sum(swapped("study", f"rater {k}", pair) for k in range(40) for pair in range(50))
    assert abs(left - 1000) < 4 * 500**0.5


def test_a_pair_waits_until_all_its_questions_are_answered(study):
    found = load(study)
    first, second = waiting(found, "r", {})
    assert waiting(found, "r", {(first, "quality"): "left"})[0] == first
    assert waiting(found, "r", {(first, q): "left" for q in found.questions})[0] == second
    assert set(sides(found, "r", found.pair(first))) == {0, 1}


def test_a_request_that_comes_again_counts_once(votes):
    votes.join("r", "Ada", 9)
    for _ in range(3):
        votes.vote("r", 0, "quality", "left", "key-0001")
    assert votes.counts() == (1, 1)
    votes.vote("r", 0, "quality", "right", "key-0002")
    assert votes.given("r") == {(0, "quality"): "right"} and votes.counts() == (1, 1)


def test_a_late_copy_of_a_vote_does_not_undo_an_undo(votes):
    votes.vote("r", 0, "quality", "left", "key-0001")
    votes.undo("r", 0, "quality")
    votes.vote("r", 0, "quality", "left", "key-0001")
    assert votes.given("r") == {}


def test_threads_lose_and_double_nothing(votes, study):
    def work(k):
        for pair in range(20):
            for _ in range(2):
                votes.vote(f"r{k}", pair, "quality", "none", f"key-{pair:04d}")

    threads = [threading.Thread(target=work, args=(k,)) for k in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert votes.counts()[1] == 100
    held, _ = read_votes(study, load(study).id)
    assert len({(one.rater, one.pair, one.question) for one in held}) == len(held) == 100


def test_there_are_only_so_many_raters(votes):
    assert [votes.join(f"r{k}", "", 2) for k in range(3)] == [True, True, False]


def test_a_rater_of_another_process_is_known(votes, study):
    other = Votes(study, load(study).id)
    other.join("r", "Ada", 9)
    assert votes.name("r") == "Ada" and votes.name("s") is None
    other.close()


@pytest.mark.parametrize("raw", [b"not a database at all" * 300, b"SQLite format 3\0" + b"\7" * 5000])
def test_a_damaged_file_of_votes_is_one_line(dmd2, study, raw):
    (study / VOTES).write_bytes(raw)
    for command in ("serve", "results"):
        code, out, err = dmd2("study", command, study)
        assert (code, out) == (2, "") and VOTES in err and "damaged" in err and err.count("\n") == 1


def test_votes_of_another_study_are_refused(study):
    Votes(study, "another").close()
    with pytest.raises(UserError, match="votes on another study"):
        Votes(study, load(study).id)


def test_a_database_of_something_else_is_one_line(dmd2, study):
    with sqlite3.connect(study / VOTES) as base:
        base.execute("CREATE TABLE votes (x)")
    code, _, err = dmd2("study", "results", study)
    assert code == 2 and err.count("\n") == 1


def test_names_of_people_are_for_the_owner_alone(votes, study):
    assert (study / VOTES).stat().st_mode & 0o777 == 0o600
