"""Numbers over seeds, and a table of them: one protocol in one column, marks only where intervals are apart."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from dmd2cli.comparison import Comparison, best
from dmd2cli.comparison_grid import sheet
from dmd2cli.comparison_text import markdown, table_csv, text_json
from dmd2cli.errors import UserError
from dmd2cli.over_seeds import pooled, spread


def result(value, each=None, metric="fid/edm", n=10, seeds=(0, 1, 2), direction="lower is better", **protocol):
    """A result as eval gives it."""
    found = {"metric": metric, "value": value, "n": n, "seeds": list(seeds), "nfe": 4, "guidance": 1.0, "seconds": 2.0}
    return {**found, "spread": spread(each or []), "protocol": {"direction": direction, **protocol}, "baselines": {}}


def test_the_interval_is_students_t():
    found = spread([1.0, 2.0, 4.0])
    low, high = stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem([1.0, 2.0, 4.0]))
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    assert found["std"] == pytest.approx(np.std([1.0, 2.0, 4.0], ddof=1))
    assert spread([1.0]) is None and spread([1.0, float("nan")]) is None


def test_results_of_seeds_become_their_mean_and_baselines_too():
    one = {"metric": "m", "value": 1.0, "precision": 0.5, "n": 10, "nfe": 4, "seed": 0, "diversity": {"student": 1.0},
           "size": [8, 8], "protocol": {"a": 1}, "baselines": {"real": {"value": 5.0}}}             # fmt: skip
    two = {**one, "value": 3.0, "precision": 0.7, "seed": 4, "diversity": {"student": 2.0}}
    found = pooled([one, two], [0, 4])
    assert (found["value"], found["precision"], found["n"], found["size"]) == (2.0, 0.6, 10, [8, 8])
    assert found["seeds"] == [0, 4] and "seed" not in found and found["diversity"] == {"student": 1.5}
    assert found["spread"]["each"] == [1.0, 3.0] and found["baselines"]["real"]["spread"]["std"] == 0
    assert pooled([one], [0]) == one


@pytest.mark.parametrize(
    ("other", "field"),
    [
        ({"n": 20}, "n is 20, and 10 for a"),
        ({"seeds": (0, 1)}, "seeds is [0, 1], and [0, 1, 2] for a"),
        ({"reference": {"data": "y"}}, "reference.data is 'y', and 'x' for a"),
        ({"resize": "none"}, "resize is 'none', and None for a"),
    ],
)
def test_another_protocol_is_refused_with_subject_field_and_both_values(other, field):
    table, known = Comparison(), {"reference": {"data": "x"}}
    table.add("a", [result(1.0, **known)])
    with pytest.raises(UserError) as error:
        table.add("b", [result(2.0, **{**known, **other})])
    assert str(error.value).startswith(f"b: fid/edm: {field}; measure both alike")


def test_where_a_reference_lies_is_no_part_of_a_protocol():
    table = Comparison()
    for name, path in (("a", "/here"), ("b", "/there")):
        table.add(name, [result(1.0, reference={"path": path, "statistics": path, "data": "x"})])
    assert len(table.columns) == 1


def test_seeds_of_images_that_are_there_do_not_count_but_those_of_others_still_do():
    table = Comparison()
    there = {k: v for k, v in result(1.0).items() if k not in ("nfe", "guidance", "seeds")} | {"seed": 0}
    table.add("images", [there])
    table.add("a", [result(1.0)])
    with pytest.raises(UserError, match="seeds"):
        table.add("b", [result(1.0, seeds=(5, 6))])


def test_apart_each_protocol_has_a_column_and_a_note():
    table = Comparison(separate=True)
    for name, n in (("a", 10), ("b", 20), ("c", 10)):
        table.add(name, [result(1.0, n=n)])
    assert [column.title for column in table.columns] == ["fid/edm (1)", "fid/edm (2)"]
    assert list(table.columns[0].cells) == ["a", "c"]
    assert "- fid/edm (2): n 20; seeds 0, 1, 2;" in markdown(table)


@pytest.mark.parametrize(
    ("values", "direction", "expected"),
    [
        ({"a": [1.0, 1.1, 1.2], "b": [5.0, 5.1, 5.2]}, "lower is better", "a"),
        ({"a": [1.0, 1.1, 1.2], "b": [5.0, 5.1, 5.2]}, "higher is better", "b"),
        ({"a": [1.0, 3.0, 5.0], "b": [4.0, 6.0, 8.0]}, "lower is better", None),           # they overlap
        ({"a": [1.0, 1.1, 1.2], "b": [5.0, 5.1, 5.2], "c": [0.5, 1.5, 2.0]}, "lower is better", None),
        ({"a": [1.0, 1.1, 1.2], "b": [5.0]}, "lower is better", None),
        ({"a": [1.0, 1.1, 1.2], "b": [5.0, 5.1, 5.2]}, "none is said", None),
    ],
)
def test_the_best_is_marked_where_its_interval_is_apart(values, direction, expected):
    table = Comparison()
    for name, each in values.items():
        table.add(name, [result(float(np.mean(each)), each, direction=direction)])
    assert best(table.columns[0], table.rows) == expected
    assert ("**" in markdown(table)) == (expected is not None)


def test_teachers_and_real_data_are_never_the_best_and_stand_first():
    table = Comparison()
    for name, each in (("a", [3.0, 3.1]), ("b", [5.0, 5.1])):
        real = {"real": {"value": 0.1, "spread": spread([0.1, 0.1])}, "teacher": {"value": 1.0, "nfe": 50}}
        table.add(name, [{**result(float(np.mean(each)), each), "baselines": real}], "teacher of a")
    assert [row.kind for row in table.rows] == ["real", "teacher", "subject", "subject"]
    assert best(table.columns[0], table.rows) is None or best(table.columns[0], table.rows) == "a"


def test_a_table_says_the_same_as_csv_and_json():
    table = Comparison()
    table.add("a | ü\n", [result(1.5, [1.0, 2.0])])
    (row,) = csv.DictReader(io.StringIO(table_csv(table)))
    assert float(row["fid/edm value"]) == 1.5 and float(row["fid/edm std"]) == pytest.approx(0.7071, abs=1e-4)
    (column,) = json.loads(text_json(table))["columns"]
    assert column["cells"]["a | ü\n"]["value"] == 1.5
    assert "| a \\| ü | 4 | 1 | 2 | 1.5 ± 6.4 |" in markdown(table)


def test_calls_that_are_doubled_for_guidance_say_so():
    table = Comparison()
    table.add("a", [{**result(1.0), "passes": 2.0}])
    assert "| a | 4 x 2 |" in markdown(table) and "two rows for an image" in markdown(table)


def test_a_sheet_has_each_image_in_its_cell():
    red, blue = Image.new("RGB", (4, 4), (255, 0, 0)), Image.new("RGB", (600, 300), (0, 0, 255))
    found = np.asarray(sheet({"one": [red, red], "two": [blue, blue]}, ["a cat", "ein langer Text " * 9]))
    assert (found == (255, 0, 0)).all(2).sum() == 2 * 256 * 256 and (found == (0, 0, 255)).all(2).sum() == 2 * 256 * 128
    across = np.asarray(sheet({"one": [red, red], "two": [blue, blue]}, ["a", "b"], across=True))
    top = np.argwhere((across == (255, 0, 0)).all(2))[:, 0].max()
    assert top < np.argwhere((across == (0, 0, 255)).all(2))[:, 0].min()
