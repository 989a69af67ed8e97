"""dmd2 study results: rates, intervals, strengths and agreement against known numbers."""

import csv
import json
import math

import numpy as np
import pytest
import studies
from PIL import Image
from scipy.stats import binomtest

from dmd2cli.study.agreement import alpha
from dmd2cli.study.counted import counted
from dmd2cli.study.rates import rate, wilson
from dmd2cli.study.results import FEW, summed
from dmd2cli.study.set import load
from dmd2cli.study.strength import connected, fit
from dmd2cli.study.turns import sides
from dmd2cli.study.votes import Votes


def fill(folder, raters, choose, questions=("quality",)):
    """Votes of some raters: choose(rater, pair) is the arm that wins, or None."""
    study = load(folder)
    votes = Votes(folder, study.id)
    for k in range(raters):
        votes.join(f"rater{k}", f"Rater {k}", 99)
        for number in range(study.pairs):
            pair = study.pair(number)
            winner, (left, _) = choose(k, pair), sides(study, f"rater{k}", pair)
            side = "none" if winner is None else "left" if winner == left else "right"
            for question in questions:
                votes.vote(f"rater{k}", number, question, side, f"key-{number:04d}-{question}")
    votes.close()
    return folder


# -- rates -----------------------------------------------------------------------------------------------------


def test_wilson_s_interval_is_the_published_one():
    low, high = wilson(81, 263)                            # Newcombe, Stat. in Medicine 17, 1998, table I, method 3
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_half_a_win_widens_the_interval_and_never_narrows_it():
    low, high = wilson(7.5, 10)
    assert low == binomtest(7, 10).proportion_ci(method="wilson").low
    assert high == binomtest(8, 10).proportion_ci(method="wilson").high


def test_no_difference_is_half_a_win():
    found = rate(3, 4, 1)
    assert found["rate"] == 5 / 8 and (found["wins"], found["ties"], found["losses"], found["votes"]) == (3, 4, 1, 8)


def test_preferences_are_those_of_arms_whatever_the_sides(tmp_path):
    folder = fill(studies.study(tmp_path, n=3), 4, lambda k, pair: 1 if k or pair.item else 0)
    found = summed(counted(folder))
    (row,) = found["questions"]["quality"]["preferences"]
    assert (row["arm"], row["against"], row["wins"], row["losses"]) == ("one", "two", 1, 11)
    by_item = found["questions"]["quality"]["by_item"]
    assert [one["rates"]["two"] for one in by_item] == [0.75, 1.0, 1.0] and [one["votes"] for one in by_item] == [4] * 3
    assert found["questions"]["alignment"]["preferences"] == []


# -- strengths -------------------------------------------------------------------------------------------------


def test_two_arms_have_the_strengths_of_their_wins():
    (found,) = fit(np.array([[[0, 30.0], [10, 0]]]))
    assert found[0] - found[1] == pytest.approx(math.log(3), abs=1e-6)


def test_strengths_come_back_from_what_they_predict():
    true = np.array([0.7, 0.1, -0.8])
    won = 1000 / (1 + np.exp(true[None, :] - true[:, None]))
    np.fill_diagonal(won, 0)
    assert fit(won[None])[0] == pytest.approx(true, abs=1e-6)


def test_three_arms_are_ordered_and_one_that_always_wins_is_finite(tmp_path):
    folder = fill(studies.study(tmp_path, arms=("a", "b", "c")), 5, lambda k, pair: pair.second)
    rows = summed(counted(folder))["questions"]["quality"]["strengths"]
    assert [row["arm"] for row in rows] == ["c", "b", "a"]
    assert all(math.isfinite(row["strength"]) for row in rows)
    assert sum(row["strength"] for row in rows) == pytest.approx(0)
    assert all(row["interval"][0] <= row["strength"] <= row["interval"][1] for row in rows)


def test_arms_that_never_met_have_no_common_scale():
    apart = np.array([[0, 1.0, 0], [1, 0, 0], [0, 0, 0]])
    assert not connected(apart) and connected(apart + np.array([[0, 0, 0], [0, 0, 0], [0, 2.0, 0]]))


# -- raters ----------------------------------------------------------------------------------------------------

PUBLISHED = {
    "A": "1 2 3 3 2 1 4 1 2 . . .", "B": "1 2 3 3 2 2 4 1 2 5 . 3",
    "C": ". 3 3 3 2 3 4 2 2 5 1 .", "D": "1 2 3 3 2 4 4 1 2 5 1 .",
}  # fmt: skip


def test_alpha_is_the_published_one():
    """Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011, C: four observers, twelve units, 0.743."""
    units = [[v for v in unit if v != "."] for unit in zip(*(row.split() for row in PUBLISHED.values()), strict=True)]
    assert alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_alpha_is_one_where_all_agree_near_zero_by_chance_and_none_where_nobody_shares():
    assert alpha([[0, 0], [1, 1]]) == 1
    assert abs(alpha(np.random.default_rng(0).integers(0, 3, (4000, 3)).tolist())) < 0.03
    assert alpha([[0], [1]]) is None and alpha([]) is None and alpha([[1, 1]]) is None


def test_who_always_presses_one_side_is_named(tmp_path):
    folder = studies.study(tmp_path, n=FEW, texts=())
    votes = Votes(folder, load(folder).id)
    for rater, side in (("r1", lambda pair: "left"), ("r2", lambda pair: "right" if pair else "left")):
        votes.join(rater, "Bo\x1b[31mb", 9)
        for pair in range(FEW):
            votes.vote(rater, pair, "quality", side(pair), f"key-{pair:04d}")
    votes.close()
    found = summed(counted(folder))
    assert [row["always"] for row in found["by_rater"]] == ["left", None]
    assert (found["sides"]["left"], found["sides"]["right"]) == (FEW + 1, FEW - 1)


# -- the command -----------------------------------------------------------------------------------------------


def test_the_report_the_json_the_csv_and_the_picture_are_of_one_study(dmd2, tmp_path):
    odd = studies.study(tmp_path, arms=("x", "=y", "$z$"))
    folder = fill(odd, 3, lambda k, pair: 1 if 1 in (pair.first, pair.second) else None, ("quality", "alignment"))
    target = tmp_path / "new/folder"
    code, out, err = dmd2("study", "results", folder, "--csv", target / "v.csv", "--plot", target / "p.png")
    assert (code, err) == (0, "") and "x over =y" in out and "raters: 3, votes: 54" in out and "Krippendorff" in out
    code, out, _ = dmd2("study", "results", folder, "--json")
    found = json.loads(out)
    assert found["votes"] == 54 and found["arms"] == ["x", "=y", "$z$"] and len(found["questions"]) == 2
    with (target / "v.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 54 and {row["rater"] for row in rows} == {f"Rater {k} (rate)" for k in range(3)}
    assert {row["preferred"] for row in rows} == {"", "'=y"} and "'=y" in {row["left"] for row in rows}
    assert Image.open(target / "p.png").size[0] > 600


def test_before_the_first_vote_there_is_one_line(dmd2, study):
    code, out, err = dmd2("study", "results", study)
    assert (code, out) == (2, "") and "nobody has voted yet" in err and err.count("\n") == 1
    Votes(study, load(study).id).close()
    assert dmd2("study", "results", study)[2] == err


def test_a_picture_is_a_png(dmd2, study):
    code, _, err = dmd2("study", "results", study, "--plot", "x.pdf")
    assert code == 2 and "--plot x.pdf: name a .png file" in err


def test_a_folder_is_no_place_for_a_table_and_nothing_is_left_beside_it(dmd2, tmp_path):
    folder = fill(studies.study(tmp_path), 1, lambda k, pair: None)
    code, _, err = dmd2("study", "results", folder, "--csv", tmp_path / "arms")
    assert code == 2 and "is a folder" in err and not [*tmp_path.glob(".*")]


def test_results_are_read_while_votes_come_in(study):
    votes = Votes(study, load(study).id)
    votes.vote("r", 0, "quality", "none", "key-0001")
    assert summed(counted(study))["votes"] == 1
    votes.vote("r", 1, "quality", "none", "key-0002")
    assert summed(counted(study))["votes"] == 2
    votes.close()
