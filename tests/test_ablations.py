"""The harness of benchmarks/ablations.py on tiny cells: resuming, budgets, divergence, changed recipes, output."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from dmd2cli import recipe_build
from dmd2cli.engine.distill import DistillJob
from dmd2cli.errors import UserError

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from tables import cell as one_cell  # noqa: E402
from tables import plots, report, scheduler  # noqa: E402
from tables.parts import NO_GAN  # noqa: E402
from tables.probe import read_series  # noqa: E402
from tables.table import FD, MODES, Cell, Row, Table, cells  # noqa: E402

SMALL = ("teacher.pretrain_steps=0", "teacher.width=8", "run.batch=8", "run.steps=6", "run.save_every=2")
TINY = Table(
    title="A tiny table",
    source="none",
    recipe="toy-grid25",
    metric="modes",
    columns=MODES,
    overrides=SMALL,
    rows={
        "one": Row("ratio 1", {"FID": 2.5}, ("ttur=1",)),
        "two": Row("ratio 2", {}, (), {"plain": ("ttur=2",), "short": ("ttur=2", "run.steps=4")}),
    },
)


@pytest.fixture(scope="module")
def ablations():
    spec = importlib.util.spec_from_file_location("benchmark_ablations", BENCHMARKS / "ablations.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Here:
    """Stands for the process of a cell; runs it at once, in this one."""

    started: list[str] = []

    def __init__(self, cell):
        Here.started.append(f"{cell.row}/{cell.variant}/{cell.seed}")
        cell.folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            one_cell.run_cell(cell)
            self.returncode = 0
        except UserError as err:
            scheduler.log(cell).write_text(f"error: {err}\n")
            self.returncode = 2

    def poll(self):
        return self.returncode


@pytest.fixture
def table(ablations, tmp_path, monkeypatch, capsys):
    """Run the tiny table, or another, as the command would; returns its exit code, its cells and what it printed."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(scheduler, "start", Here)
    Here.started = []

    def run(*words, table=TINY):
        monkeypatch.setitem(ablations.TABLES, "tiny", table)
        Here.started.clear()
        usual = ["--out", str(tmp_path), "--samples", "200", "--jobs", "1", "--seeds", "1"]
        code = ablations.main(["tiny", *usual, *words])
        return code, list(Here.started), capsys.readouterr().out

    yield run
    signal.signal(signal.SIGTERM, handler)


def only(tmp_path, row="one", variant="run", table=TINY, extra=()):
    return Cell("tiny", table, row, variant, 0, tmp_path, 200, tuple(extra))


def test_every_row_of_every_table_is_a_recipe_that_can_be_built(ablations, tmp_path):
    for name, table in ablations.TABLES.items():
        for cell in cells(name, table, 1, tmp_path, 200, ()):
            recipe_build.check(cell.recipe)
            for term, options in cell.recipe.losses.items():
                recipe_build.build("losses", options, f"losses.{term}")
        assert table.picture in plots.PICTURES and (table.points > 0) == (table.picture == "curves")


def test_every_row_has_seed_0_before_any_has_seed_1(tmp_path):
    order = [(c.seed, c.variant, c.row) for c in cells("tiny", TINY, 2, tmp_path, 200, ())]
    assert order[:3] == [(0, "run", "one"), (0, "plain", "two"), (0, "short", "two")]
    assert [seed for seed, _, _ in order] == [0, 0, 0, 1, 1, 1]


def test_a_table_prints_its_rows_and_writes_json_and_png_and_a_finished_cell_is_not_run_again(table, tmp_path):
    code, started, out = table("--rows", "one")
    assert (code, started) == (0, ["one/run/0"]) and "| ratio 1 | run     | 2.5" in out and "6 / 6" in out
    found = json.loads((tmp_path / "tiny.json").read_text())
    line = found["lines"][0]
    assert {"command", "hardware", "cores", "torch", "budget_minutes", "minutes"} <= found.keys()
    assert line["paper"] == {"FID": 2.5} and line["overrides"] == [*SMALL, "ttur=1"]
    assert line["ours"]["value"]["n"] == 1 and line["critic_updates"] == 6 and line["cpu_seconds"] > 0
    assert line["seeds"][0]["result"]["nfe"] == 1
    assert Image.open(tmp_path / "tiny.png").size[0] > 500
    assert table("--rows", "one")[:2] == (0, [])


def test_no_cell_starts_after_the_budget_and_its_place_says_not_run(table):
    code, started, out = table("--budget", "0")
    assert (code, started) == (0, []) and "1 not run" in out


def test_a_cell_that_is_stopped_saves_and_goes_on_to_the_same_result(tmp_path, monkeypatch):
    straight, stopped = (only(tmp_path / name, table=replace(TINY, points=6)) for name in ("straight", "stopped"))
    one_cell.run_cell(straight)
    step, taken = DistillJob.step, []

    def interrupted(self, number):
        taken.append(number)
        if len(taken) == 3:
            signal.raise_signal(signal.SIGINT)
        return step(self, number)

    monkeypatch.setattr(DistillJob, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        one_cell.run_cell(stopped)
    assert not stopped.finished()
    one_cell.run_cell(stopped)
    assert taken == [0, 1, 2, 3, 4, 5]
    a, b = straight.held(), stopped.held()
    assert {**a["result"], "seconds": 0} == {**b["result"], "seconds": 0} and a["samples"] == b["samples"]
    assert b["cost"]["generator_updates"] == 6 and b["cost"]["cpu_seconds"] > 0
    assert [p["steps"] for p in b["series"]] == [1, 2, 3, 4, 5, 6] == [p["generator_updates"] for p in b["series"]]
    assert [p["value"] for p in a["series"]] == [p["value"] for p in b["series"]]
    seconds = [p["cpu_seconds"] for p in b["series"]]
    assert seconds == sorted(seconds) and b["cost"]["cpu_seconds"] == seconds[-1]


def test_a_run_that_diverges_is_a_result(table, tmp_path):
    code, _, out = table("--rows", "one", "student.lr=1.0e+30", "critic.lr=1.0e+30", "run.log_every=1", "run.clip=null")
    assert code == 0 and "| diverged" in out and "1 diverged" in out
    assert "not finite" in only(tmp_path).held()["diverged"] and str(tmp_path) not in only(tmp_path).held()["diverged"]


def test_a_cell_whose_recipe_changed_is_run_anew_and_the_old_one_kept(table, tmp_path):
    table("--rows", "one")
    code, started, out = table("--rows", "one", "student.lr=1.0e-3")
    assert (code, started) == (0, ["one/run/0"]) and "student.lr 0.002 -> 0.001" in out
    kept = tmp_path / "tiny" / "one" / "run"
    assert (kept / "seed-0.changed-1").is_dir() and (kept / "seed-0.changed-1.json").is_file()
    assert table("--rows", "one", "student.lr=1.0e-3", "run.log_every=3")[1] == []


def test_a_cell_that_was_stopped_under_another_recipe_is_run_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(DistillJob, "publication", lambda *_: signal.raise_signal(signal.SIGINT) or list)
    with pytest.raises(KeyboardInterrupt):
        one_cell.run_cell(only(tmp_path))
    monkeypatch.undo()
    one_cell.run_cell(only(tmp_path, extra=["ttur=3"]))
    assert only(tmp_path, extra=["ttur=3"]).held()["cost"]["generator_updates"] == 2


def test_a_cell_with_the_recipe_of_another_takes_its_result(table, tmp_path):
    table("--rows", "two", "run.steps=2")
    held = [only(tmp_path, "two", variant).held() for variant in ("plain", "short")]
    assert held[1]["taken_from"] == "tiny / two / plain" and held[0]["result"] == held[1]["result"]
    assert not only(tmp_path, "two", "short").folder.exists()


def test_a_row_that_cannot_be_run_says_why_and_the_others_run(table):
    wrong = replace(TINY, rows={"bad": Row("bad", overrides=("losses.nonsense.weight=1.0",)), "one": TINY.rows["one"]})
    code, started, out = table(table=wrong)
    assert code == 1 and started == ["bad/run/0", "one/run/0"]
    assert "bad, run, seed 0: failed with code 2: error:" in out and "nonsense" in out and "1 finished" in out


@pytest.mark.parametrize("words", [["nonsense"], ["tiny", "--rows", "x"], ["tiny", "run.stepz=1"]])
def test_a_wrong_name_is_one_line(ablations, monkeypatch, words):
    monkeypatch.setitem(ablations.TABLES, "tiny", TINY)
    with pytest.raises(UserError):
        ablations.main(words)


def test_a_teacher_row_is_measured_with_the_sampler_and_guidance_of_its_recipe(tmp_path):
    scale = "losses.distribution_matching.guidance=2.0"
    row = Row("teacher", overrides=("sampler.steps=2", scale), teacher=True)
    cell = only(tmp_path, "t", table=Table("T", "none", "digits", {"t": row}))
    one_cell.run_cell(cell)
    result = cell.held()["result"]
    assert (result["nfe"], result["guidance"]) == (3, 2.0) and not cell.folder.exists()


def test_digits_are_measured_during_training_with_the_brightness_of_the_raw_student(tmp_path):
    few = ("run.steps=2", "run.batch=8", *NO_GAN)
    cell = only(tmp_path, table=Table("T", "none", "digits", {"one": Row("one")}, few, points=1, picture="curves"))
    one_cell.run_cell(cell)
    (point,) = read_series(cell.folder)
    assert point["steps"] == 2 and point["value"] > 0 and -255 < point["brightness"] < 255


def test_cells_with_one_teacher_share_their_pairs(tmp_path):
    row = Row("one", overrides=("data.pairs.use=pairs", "data.pairs.path={pairs}"))
    table = replace(TINY, rows={"one": row}, pairs=10)
    cell, same = only(tmp_path, table=table), only(tmp_path, table=table, extra=["run.steps=9"])
    other = only(tmp_path, table=table, extra=["teacher.layout=ring8"])
    assert cell.pairs == same.pairs != other.pairs and cell.pairs.parent == tmp_path / "pairs"
    assert cell.recipe.data.pairs.options["path"] == str(cell.pairs) and only(tmp_path).pairs is None


def test_the_spread_is_that_of_a_sample():
    assert report.mean_std([1.0, 2.0, 4.0]) == {"mean": pytest.approx(7 / 3), "std": pytest.approx(1.5275252), "n": 3}
    assert report.mean_std([1.0]) == {"mean": 1.0, "n": 1} and report.mean_std([]) is None


@pytest.mark.parametrize("picture", ["dots", "curves", "frontier", "scatter"])
def test_pictures_are_drawn_of_what_is_there(tmp_path, picture):
    series = [{"generator_updates": i, "cpu_seconds": 2.0 * i, "value": 8.0 / i} for i in (1, 2, 3)]
    good = {"result": {"value": 0.5, "nfe": 1}, "series": series, "samples": [[0.0, 0.5]]}
    table = replace(TINY, picture=picture, columns=FD)
    made = cells("tiny", table, 2, tmp_path, 200, ())
    found = {made[0]: good, made[1]: {"diverged": "step 3"}, made[3]: {**good, "series": series[:2]}}
    plots.draw(table, made, found, tmp_path / "t.png")
    assert len(Image.open(tmp_path / "t.png").convert("L").getcolors()) > 10
    plots.draw(table, made, {}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.slow
def test_the_command_makes_pairs_and_cells_in_processes_and_continues_after_a_signal(tmp_path):
    words = [sys.executable, str(BENCHMARKS / "ablations.py"), "dmd-figure3", "--seeds", "1", "--samples", "500"]
    words += ["--rows", "dm,dmd", "--out", str(tmp_path), "run.steps=400", "teacher.pretrain_steps=0"]
    first = subprocess.Popen(words)
    logs = tmp_path / "dmd-figure3" / "dm" / "run" / "seed-0.log"
    while first.poll() is None and "step 250" not in (logs.read_text() if logs.is_file() else ""):
        time.sleep(0.1)
    first.terminate()
    assert first.wait() == 130 and "saved at step" in logs.read_text()
    assert subprocess.run(words, check=False).returncode == 0
    found = json.loads((tmp_path / "dmd-figure3.json").read_text())
    assert [line["cells"]["finished"] for line in found["lines"]] == [1, 1]
    assert [line["critic_updates"] for line in found["lines"]] == [400, 400]
