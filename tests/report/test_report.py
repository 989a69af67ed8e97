"""dmd2 report: what the file says, what it holds, and what is refused in one line."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import long_runs
import pytest
from PIL import Image


class Page(HTMLParser):
    """Headings, and the addresses that a page refers to."""

    def __init__(self, text):
        super().__init__()
        self.levels, self.addresses, self.images = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.levels += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        self.addresses += [found[key] for key in ("src", "href", "action", "data") if key in found]
        self.images += [found] if tag == "img" else []


def test_a_healthy_run_is_said_to_be_healthy_and_the_file_lies_in_its_folder(dmd2, healthy):
    code, out, err = dmd2("report", healthy)
    text = (healthy / "report.html").read_text(encoding="utf-8")
    assert (code, err) == (0, "") and out.startswith(f"{healthy / 'report.html'}: 1 run, ")
    assert "<strong>Healthy</strong>" in text and "step 800 of 800 (finished)" in text


def test_a_finding_has_signal_value_threshold_cause_and_what_to_paste(page, collapsed):
    text = page(collapsed)
    assert "<strong>Unhealthy</strong>" in text
    assert "images of one condition are 0.20 times as far apart as the teacher&#39;s" in text
    assert re.search(r"<code>health/diversity</code> is 0.2; the threshold is 0.6.", text)
    assert "Cause: cause unknown." in text


def test_a_run_that_has_just_begun_is_too_early_to_judge(page, tmp_path):
    run = long_runs.run(tmp_path / "new", steps=100, pictures=0, overrides=["run.steps=800"])
    text = page(run)
    assert "<strong>Too early to say</strong>" in text and "step 100 of 800, 12%" in text
    assert "No samples were drawn yet" in text and "There is no student to draw with yet." in text


def test_the_best_student_is_named_so_that_the_command_can_be_pasted(page, tmp_path):
    run = long_runs.run(tmp_path / "a run")
    (run / "student").mkdir()
    (run / "student" / "student.json").write_text("{}")
    assert f"dmd2 sample --student &#39;{run}&#39;" in page(run)
    (run / "best").mkdir()
    (run / "best" / "student.json").write_text("{}")
    assert f"dmd2 sample --student &#39;{run}/best&#39;" in page(run)


def test_the_file_refers_to_nothing_outside_and_its_policy_knows_its_own_script(page, healthy, collapsed):
    text = page(healthy, collapsed)
    assert all(address.startswith(("#", "data:")) for address in Page(text).addresses)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        content = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
        assert base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() in policy
    assert " style=" not in text and "url(" not in text


def test_headings_go_down_one_level_at_a_time_and_images_have_words(page, healthy, collapsed):
    found = Page(page(healthy, collapsed))
    assert found.levels[0] == 1 and found.levels.count(1) == 1
    assert all(below - above <= 1 for above, below in zip(found.levels, found.levels[1:], strict=False))
    assert len(found.images) == 4 and all(image["alt"] for image in found.images)


def test_several_runs_are_told_apart_and_their_recipes_compared(page, healthy, collapsed):
    text = page(healthy, collapsed)
    assert "2 runs compared" in text and "A: healthy" in text and "B: collapsed" in text
    table = text[text.index('id="recipes"') :]
    rows = re.findall(r"<code>([\w.]+)</code></th><td>(.*?)</td><td[^>]*>(.*?)</td>", table)
    assert ("losses.gan_generator.weight", "0.03", "3.0") in rows and ("run.seed", "0", "1") in rows and len(rows) == 2
    chart = text[text.index("<code>health/diversity</code> –") :].partition("</figure>")[0]
    assert chart.count('class="raw run-') == 2 and 'data-run="A"' in chart and ">B</text>" in chart


def test_a_folder_of_another_language_and_of_angle_brackets_is_shown_as_text(page, tmp_path):
    run = long_runs.run(tmp_path / "学生 <script>alert(1)</script>".replace("/", "∕"))
    text = page(run)
    assert text.count("<script>") == 1 and "学生 &lt;script&gt;" in text


def test_bytes_in_a_name_that_are_no_text_do_no_harm(page, tmp_path):
    run = long_runs.run(tmp_path / os.fsdecode(b"caf\xe9"), overrides=["health.every=50"])
    assert "<h1><bdi>caf?</bdi></h1>" in page(run)


def test_damaged_lines_and_numbers_that_are_not_finite_leave_gaps(page, tmp_path):
    def change(step, found):
        return found | {"critic/gradient_norm": None if 300 < step < 500 else 1.0}

    run = long_runs.run(tmp_path / "run", change=change)
    long = b"1" + b"0" * 5000
    bad = [b"\xff\xfe", b"[1]", b'{"step": NaN}', b'{"step": 1e999}', b'{"step": "x"}']
    bad += [b'{"step": 7, "x": %b}' % long, b'{"step": %b}' % long[:400]]
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b"\n".join([*bad, b"", b'{"step": 850, "critic/gradi']))
    chart = page(run).partition("<code>critic/gradient_norm</code>")[2].partition("</figure>")[0]
    assert "3 values not finite" in chart and re.search(r' d="M[^M"]+M[^M"]+"', chart)


def test_pictures_that_cannot_be_read_are_named_and_the_others_shown(page, tmp_path):
    run = long_runs.run(tmp_path / "run", pictures=2)
    (run / "samples" / "step-00000100.png").write_bytes(b"no picture")
    (run / "samples" / "step-00000200.png").write_bytes(b"")
    (run / "samples" / "step-0000x.png").write_bytes(b"another file")
    Image.new("1", (10_000, 20_000)).save(run / "samples" / "step-00000300.png")
    text = page(run)
    assert len(Page(text).images) == 2 and "step-0000x" not in text
    assert "step-00000100.png</bdi>: cannot be read" in text and "step-00000200.png</bdi>: cannot be read" in text
    assert "step-00000300.png</bdi>: too large to show" in text


def test_many_large_pictures_fit_into_the_file(page, tmp_path):
    run = long_runs.run(tmp_path / "run", pictures=0)
    noise = Image.effect_noise((1000, 1000), 90)
    noise.save(run / "samples.png")
    (run / "samples").mkdir()
    for step in range(60):
        (run / "samples" / f"step-{step:08d}.png").symlink_to(run / "samples.png")
    found = Page(page(run)).images
    assert all(400 < int(image["width"]) <= 1000 for image in found)
    assert len(found) == 24 and "step 0" in found[0]["alt"] and "step 59" in found[-1]["alt"]
    assert sum(len(image["src"]) for image in found) < 5.1 * 2**20


@pytest.mark.slow
def test_the_teacher_stands_beside_the_student_only_if_asked_for(page, tmp_path):
    run = long_runs.run(tmp_path / "run", overrides=["sampler.steps=2"])
    assert "Samples of the teacher" not in page(run)
    assert "Samples of the teacher" in page(run, "--teacher", "--device", "cpu")
    long_runs.sheet(run / "samples" / "teacher.png")
    assert "Samples of the teacher" in page(run)


def test_circumstances_and_cost_are_those_that_were_recorded(page, tmp_path):
    run = long_runs.run(tmp_path / "run", overrides=["run.batch=64"])
    os.utime(run / "run.json", (1_000_000, 1_000_000))
    os.utime(run / "metrics.jsonl", (1_007_200, 1_007_200))
    text = page(run, "--price-per-hour", "2.5")
    assert "<dd>2 h, from when run.json and metrics.jsonl were last written</dd>" in text
    assert "<dd>5.00, at 2.5 for a device and hour</dd>" in text
    assert "<dt>Hardware</dt><dd>1 x x86_64 cpu, 1 thread</dd>" in text and "<dd>dmd2 distill digits -o" in text
    assert "<dt><code>run.batch</code></dt><dd>128 → 64</dd>" in text
    os.utime(run / "run.json", (2_000_000, 2_000_000))
    text = page(run, "--price-per-hour", "2.5")
    assert "not known: neither" in text and "<dt>Cost</dt>" not in text


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["gone"], "gone: no run folder"),
        (["empty"], "empty: no run folder"),
        (["quiet"], "quiet: nothing is logged yet"),
        (["blank"], "no line of it can be read"),
        (["run", "./run"], "run: is named twice"),
        ([*"abcdefghijklm"], "13 runs: a report compares up to 12"),
        (["run", "-o", "no/such/page.html"], "no/such/page.html: there is no folder no/such"),
        (["run", "-o", "empty"], "empty: is a folder"),
        (["run", "-o", "run/metrics.jsonl"], "run/metrics.jsonl: a report is an .html file"),
        (["run", "--eval", "gone.json"], "gone.json: cannot be read"),
        (["run", "--eval", "run/metrics.jsonl"], "run/metrics.jsonl: not JSON"),
        (["run", "--eval", "run/run.json"], "run/run.json: no results of dmd2 eval"),
        (["run", "--reference", "nothing"], "--reference nothing: no such file"),
        (["run", "--reference", "run/run.json"], "run/run.json: no reference"),
        (["run", "--price-per-hour=-1"], "--price-per-hour -1.0: must be 0 or more"),
        (["run", "--price-per-hour=nan"], "--price-per-hour nan: must be 0 or more"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(dmd2, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    long_runs.run(tmp_path / "run", steps=100)
    (tmp_path / "empty").mkdir()
    for name, text in (("quiet", None), ("blank", "")):
        long_runs.run(tmp_path / name, steps=100)
        (tmp_path / name / "metrics.jsonl").unlink()
        if text is not None:
            (tmp_path / name / "metrics.jsonl").write_text(text)
    code, out, err = dmd2("report", *args)
    assert (code, out) == (2, "") and says in err and err.count("\n") == 1
    assert not list(tmp_path.rglob("*.html")) and not list(tmp_path.rglob("*.tmp"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_asks_for_another_place(dmd2, tmp_path):
    run = long_runs.run(tmp_path / "run", steps=100)
    run.chmod(0o500)
    code, _, err = dmd2("report", run)
    run.chmod(0o700)
    assert code == 2 and "cannot be written; choose another place with -o" in err


def test_a_run_that_is_being_written_can_be_reported_on_again_and_again(dmd2, tmp_path):
    run = long_runs.run(tmp_path / "run", steps=800)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    for done in (3, 9, 16):
        (run / "metrics.jsonl").write_text("".join(lines[:done]) + '{"step": 99')
        assert dmd2("report", run)[0] == 0
        assert f"step {50 * done} of 800" in (run / "report.html").read_text(encoding="utf-8")


def test_results_of_eval_stand_beside_their_protocols(page, tmp_path):
    run, protocol = long_runs.run(tmp_path / "run"), {"features": "digits", "direction": "lower is better"}
    beside = {"diversity": {"ratio": 0.91}, "baselines": {"teacher": {"value": 0.05}, "real": {}}}
    how = {"nfe": 1, "n": 1000, "seed": 3, "protocol": protocol}
    result = {"subject": "runs/<b>", "metric": "fd-digits", "value": 0.1234567, **how, **beside}
    (run / "eval-digits.json").write_text(json.dumps(result))
    (run / "eval-broken.json").write_text("{")
    spread = {"low": 0.2, "high": 0.4}
    many = [result | {"value": 0.3, "spread": spread}, result | {"metric": "kid", "protocol": {"n": 2}}]
    (tmp_path / "many.json").write_text(json.dumps(many))
    text = page(run, "--eval", tmp_path / "many.json", "--eval", tmp_path / "many.json")
    rows = [re.sub("<[^>]+>", "|", row) for row in re.findall(r"<tr>.*?</tr>", text) if "runs/&lt;b&gt;" in row]
    assert len(rows) == 3 and all("0.05" in row and "0.91" in row and "nfe 1, n 1000, seed 3" in row for row in rows)
    assert "|0.3 (0.2 to 0.4)|" in rows[0] and "|0.1235|" in rows[2]
    assert "eval-broken.json: not JSON" in text
    assert text.count("<summary>Protocol") == 2 and "lower is better" in text


def test_help_and_report_import_no_torch(healthy, tmp_path):
    code = (
        "import sys; from pathlib import Path; from dmd2cli.report.make import Wishes, report;"
        f"report([Path({str(healthy)!r})], Wishes()); print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
