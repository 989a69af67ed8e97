"""Lists of prompts: read from files of every kind, and as a data set."""

import json
import subprocess
import sys

import pytest

from dmd2cli import registry
from dmd2cli.data.prompts import Prompts
from dmd2cli.data.sources import texts
from dmd2cli.data.sources.texts import read_prompts
from dmd2cli.errors import UserError
from dmd2cli.recipe import Use
from dmd2cli.recipe_build import build
from dmd2cli.testing import check_dataset

WORDS = ["a cat", "a très small dog, sitting", 'an "ox"']


def written(path, columns):
    """The table {name: values} as a file of the path's kind."""
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), path)
    elif path.suffix == ".txt":
        path.write_text("\r\n".join(columns["prompt"]) + "\n\n", encoding="utf-8")
    elif path.suffix in (".jsonl", ".ndjson"):
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    else:
        import csv

        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            table.writerow(columns)
            table.writerows(zip(*columns.values(), strict=True))
    return str(path)


@pytest.mark.parametrize("kind", texts.KINDS)
def test_prompts_are_read_in_order_from_every_kind_of_file(tmp_path, kind):
    path = written(tmp_path / f"p{kind}", {"prompt": WORDS, "n": ["1", "2", "3"]})
    assert read_prompts(path) == WORDS


@pytest.mark.parametrize("kind", [kind for kind in texts.KINDS if kind != ".txt"])
@pytest.mark.parametrize("name", ["caption", "text", "prompt"])
def test_the_usual_columns_are_found_and_others_are_named(tmp_path, kind, name):
    path = written(tmp_path / f"p{kind}", {"n": ["1", "2", "3"], name: WORDS, "TEXT": ["x", "y", "z"]})
    assert read_prompts(path) == WORDS and read_prompts(path, "TEXT") == ["x", "y", "z"]


@pytest.mark.parametrize("kind", [kind for kind in texts.KINDS if kind != ".txt"])
def test_a_column_that_is_not_there_is_answered_with_those_that_are(tmp_path, kind):
    path = written(tmp_path / f"p{kind}", {"TEXT": WORDS, "url": ["a", "b", "c"]})
    for name, tried in ((None, "prompt or caption or text"), ("words", "words")):
        with pytest.raises(UserError, match=f"no column {tried}; there are TEXT, url; say which holds the prompts"):
            read_prompts(path, name)


def test_empty_prompts_and_empty_lines_are_left_out(tmp_path):
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbf  a cat \n\n  \nan ox")
    assert read_prompts(str(tmp_path / "p.txt")) == ["a cat", "an ox"]
    path = written(tmp_path / "p.parquet", {"prompt": ["a", None, " "]})
    assert read_prompts(path) == ["a"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", b"\n \n", "p.txt: no prompts in it; write one on each line"),
        ("p.txt", b"a\xff", r"p.txt: no UTF-8 text \(byte 1\)"),
        ("p.jsonl", b"a cat\n", r"p.jsonl:1: not JSON .*expected an object such as {'text': ...}"),
        ("p.jsonl", b'{"prompt": "a"}\n["b"]\n', "p.jsonl:2: .* is no JSON object"),
        ("p.jsonl", b'{"prompt": 7}', "p.jsonl:1: prompt is 7, no text; name another column"),
        ("p.csv", b"", "p.csv: no column prompt or caption or text; there are none"),
        ("p.parquet", b"PAR1 and no more", "p.parquet: not a whole Parquet file"),
        ("p.pkl", b"", "p.pkl: a format that is not known; expected .txt, .jsonl"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as refused:
        read_prompts(str(tmp_path / name))
    assert "\n" not in str(refused.value)


def test_a_missing_file_and_a_column_of_plain_text_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no.txt: no such file; expected a list of prompts: .txt, .jsonl"):
        read_prompts(str(tmp_path / "no.txt"))
    with pytest.raises(UserError, match="a text file has no column words"):
        read_prompts(written(tmp_path / "p.txt", {"prompt": WORDS}), "words")


def test_without_pyarrow_a_parquet_file_says_what_to_install(tmp_path, monkeypatch):
    path = written(tmp_path / "p.parquet", {"prompt": WORDS})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"dataset 'prompts' needs pyarrow: pip install 'dmd2cli\[data\]'"):
        read_prompts(path)


def test_reading_imports_no_torch():
    code = "import sys, dmd2cli.data.sources.texts; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_the_data_set_has_a_prompt_for_every_line(tmp_path):
    data = Prompts(written(tmp_path / "p.txt", {"prompt": WORDS}))
    check_dataset(data)
    assert [data[i].condition for i in range(len(data))] == WORDS and data[0].x is None
    assert [data.condition(i) for i in range(3)] == WORDS and data.name(0) == "prompt 'a cat'"
    for i in (-1, 3):
        with pytest.raises(IndexError):
            data[i]


def test_a_recipe_may_hold_the_prompts_itself():
    with registry.override("datasets", "prompts", Prompts):
        data = build("datasets", Use(use="prompts", texts=[*WORDS, ""]), "data.prompts")
        assert [data[i].condition for i in range(len(data))] == WORDS
        both = {"path": "p.txt", "texts": ["a"]}
        for options in ({}, both, {"texts": []}, {"texts": [" "]}, {"texts": ["a"], "limit": 0}):
            with pytest.raises(UserError, match="data.prompts: (prompts: give either|texts: no prompts|limit must be)"):
                build("datasets", Use(use="prompts", **options), "data.prompts")
        with pytest.raises(UserError, match="texts"):
            build("datasets", Use(use="prompts", texts=[1]), "data.prompts")


def test_a_limit_takes_prompts_evenly():
    data = Prompts(texts=[str(i) for i in range(10)], limit=3)
    assert [data[i].condition for i in range(len(data))] == ["0", "3", "6"]
    assert len(Prompts(texts=["a"], limit=3)) == 1


def test_a_fingerprint_is_of_all_prompts_in_their_order():
    marks = {Prompts(texts=texts).fingerprint() for texts in (["a", "b"], ["b", "a"], ["a", "b", "c"], ["ab"])}
    assert len(marks) == 4 and Prompts(texts=["a", " b"]).fingerprint() in marks
