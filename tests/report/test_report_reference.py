"""The reference band: made from runs that differ in their seeds, drawn under the curves of another."""

import json

import long_runs
import pytest

from dmd2cli.report import reference


@pytest.fixture(scope="module")
def band(tmp_path_factory):
    """Of three seeds."""
    folder = tmp_path_factory.mktemp("band")
    runs = [long_runs.run(folder / f"{seed}", seed=seed, pictures=0) for seed in (4, 5, 6)]
    file = folder / "band.json"
    assert reference.main([*map(str, runs), "-o", str(file)]) == 0
    return file


def test_it_holds_the_extremes_and_the_median_of_the_seeds(band):
    found = json.loads(band.read_text())
    assert (found["recipe"], found["seeds"], found["steps"]) == ("digits", [4, 5, 6], 800)
    kept = found["signals"]["health/diversity"]
    values = [sorted(long_runs.values(step, seed)["health/diversity"] for seed in (4, 5, 6)) for step in kept["step"]]
    for key, place in (("low", 0), ("median", 1), ("high", 2)):
        assert kept[key] == pytest.approx([v[place] for v in values], rel=1e-4)


def test_it_is_drawn_and_named(page, healthy, band):
    text = page(healthy, "--reference", band)
    assert "reference: recipe digits, 3 seeds, lowest to highest and median</li>" in text
    chart = text.partition("<code>health/diversity</code>")[2].partition("</figure>")[0]
    assert 'class="band"' in chart and 'class="median"' in chart


def test_a_run_of_another_length_gets_it_stretched_and_is_told_so(page, band, tmp_path):
    text = page(long_runs.run(tmp_path / "run", steps=1600), "--reference", band)
    assert "its 800 steps are stretched to the length of this run" in text


def test_a_run_that_has_just_begun_gets_the_part_of_it_that_there_is(page, band, tmp_path):
    run = long_runs.run(tmp_path / "run", steps=200, overrides=["run.steps=800"])
    chart = page(run, "--reference", band).partition("<code>health/diversity</code>")[2].partition("</figure>")[0]
    assert chart.partition('class="median" d="')[2].partition('"')[0].count("L") == 3


def test_without_one_the_page_says_so(page, tmp_path):
    run = long_runs.run(tmp_path / "run")
    (run / "run.json").write_text("{}")
    assert "No reference band: there is none for this recipe." in page(run)


def test_runs_that_differ_in_more_than_their_seed_make_none(healthy, collapsed, tmp_path, capsys):
    assert reference.main([str(healthy), str(collapsed), "-o", str(tmp_path / "x.json")]) == 2
    assert "differs from" in (err := capsys.readouterr().err) and "losses.gan_generator.weight" in err
    assert not (tmp_path / "x.json").exists()
