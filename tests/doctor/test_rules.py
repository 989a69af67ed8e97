"""Every rule on a run that breaks it, and on one that does not: the signal, the cause, the change."""

import json
import subprocess
import sys

import pytest
from folders import HEALTHY, run_folder

from dmd2cli.doctor.record import read
from dmd2cli.doctor.verdict import RULES, diagnose
from dmd2cli.errors import UserError

BROKEN = {
    "finite": ({"critic/skipped": 40}, (), "NaN or infinity", "dmd2 data check"),
    "teacher-error": ({"health/teacher/error": 5.0}, (), "wrong parametrisation", "dmd2 doctor"),
    "teacher-noise": ({"health/teacher/slope": -0.4}, (), "sigma mismatch", "dmd2 doctor"),
    "conditions": ({"health/conditions": 0.1}, (), "collapsed labels", "dmd2 data check"),
    "real-data": ({"health/real/distinct": 0.1}, (), "stale data", "dmd2 data check"),
    "batch": ({}, ("run.batch=4",), "batch too small", "run.batch=128"),
    "gan-weight": ({"health/gradient/gan_generator": 100.0}, (), "GAN weight", "losses.gan_generator.weight=0.0003"),
    "guidance": (
        {"health/teacher/guided_error": 9.0, "health/diversity": 0.5},
        ("losses.distribution_matching.guidance=7.0",), "guidance too high", "losses.distribution_matching.guidance=3",
    ),
    "critic-lag": ({"critic/lag": 0.3}, ("ttur=1",), "too few critic updates", "ttur=5"),
    "average": ({"validation/fd-digits": 3.0, "validation/score": 3.0}, (), "EMA too long", "student.ema_ramp=0.05"),
    "mean_shift": ({"health/mean_shift": 0.6}, (), "unknown", ""),
    "std_ratio": ({"health/std_ratio": 1.6}, (), "unknown", ""),
    "brightness": ({"health/brightness": -0.3}, (), "unknown", ""),
    "contrast": ({"health/contrast": 0.5}, (), "unknown", ""),
    "saturation": ({"health/saturation": 2.0}, (), "unknown", ""),
    "high_frequency": ({"health/high_frequency": 3.0}, (), "unknown", ""),
    "diversity": ({"health/diversity": 0.2}, (), "unknown", ""),
    "discriminator": ({"health/accuracy/fake": 0.99, "health/accuracy/real": 0.97}, (), "unknown", ""),
    "clipped": ({"critic/gradient_norm": 50.0}, (), "unknown", ""),
    "past-best": (
        {"validation/score": [0.5, 0.3, 0.2, 0.2, 0.4, 0.5, 0.5, 0.6, 0.6], "validation/fd-digits/raw": "absent"},
        (), "unknown", "dmd2 sample",
    ),
}  # fmt: skip
"""Rule -> (numbers, overrides, part of the cause, part of the change)."""


def verdict(folder, numbers=(), overrides=(), **options):
    return diagnose(read(run_folder(folder, overrides=overrides, **dict(numbers), **options)))


def test_a_healthy_run_is_called_healthy(tmp_path):
    found = verdict(tmp_path)
    assert (found.verdict, list(found.findings)) == ("healthy", []) and found.signals["health/diversity"] == 0.9


def test_there_is_a_broken_run_for_every_rule():
    assert {rule.name for rule in RULES} == BROKEN.keys()


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_run_is_named_by_its_signal_with_cause_and_change(tmp_path, rule):
    numbers, overrides, cause, change = BROKEN[rule]
    found = verdict(tmp_path, numbers, overrides)
    first = found.findings[0]
    assert found.verdict == "unhealthy" and first.rule == rule
    assert cause in first.cause and change in " ".join(first.change)
    signal = next(one.signal for one in RULES if one.name == rule)
    assert first.signal == signal or signal.startswith(("PLAYER", "validation/METRIC"))
    read_by_rules = {name: value for name, value in numbers.items() if isinstance(value, float) and rule != "clipped"}
    assert found.signals.items() >= read_by_rules.items()
    assert f"{first.value:.2g}" != f"{first.threshold:.2g}" and first.says


def test_of_two_causes_the_deeper_one_is_told_first_and_symptoms_follow_from_it(tmp_path):
    found = verdict(tmp_path, {"critic/lag": 0.3, "health/teacher/error": 5.0, "health/diversity": 0.1})
    assert [one.rule for one in found.findings] == ["teacher-error", "critic-lag", "diversity"]
    assert found.findings[-1].cause.startswith("follows from teacher-error")


@pytest.mark.parametrize(
    ("overrides", "change"),
    [(("critic.lr=1.0e-4",), "critic.lr=0.001"), (("ttur=2",), "ttur=5"), ((), "ttur=10")],
)
def test_what_to_do_about_a_critic_that_is_behind_depends_on_why(tmp_path, overrides, change):
    assert change in verdict(tmp_path, {"critic/lag": 0.3}, overrides).findings[0].change


def test_guidance_is_not_accused_without_symptoms_or_where_the_recipe_has_as_much(tmp_path):
    driven, strong = {"health/teacher/guided_error": 9.0}, ("losses.distribution_matching.guidance=7.0",)
    assert verdict(tmp_path / "a", driven, strong).verdict == "healthy"
    shown = verdict(tmp_path / "b", {**driven, "health/diversity": 0.5}, strong, command="dmd2 distill sdxl-4step")
    assert [one.rule for one in shown.findings if one.rule != "batch"] == ["diversity"]


def test_the_batch_is_compared_with_the_recipe_that_the_run_was_started_from(tmp_path):
    assert verdict(tmp_path / "a", overrides=("run.batch=64",)).verdict == "healthy"
    alone = verdict(tmp_path / "b", overrides=("run.batch=8",), command="dmd2 distill mine.yaml -o runs/x")
    assert alone.findings[0].rule == "batch" and "16" in alone.findings[0].says


def test_a_start_that_looks_bad_is_no_finding_once_it_is_over(tmp_path):
    better = [0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.9, 0.9]
    assert verdict(tmp_path, {"health/diversity": better}).verdict == "healthy"


def test_repeated_lines_of_one_measurement_are_no_three_of_them(tmp_path):
    often = ("run.log_every=50", "health.every=1000", "run.steps=9000")
    assert verdict(tmp_path / "a", overrides=often).verdict == "too early"
    assert verdict(tmp_path / "b", rows=15, overrides=often).verdict == "healthy"


@pytest.mark.parametrize(("command", "name"), [
    ("dmd2 distill digits", "digits"), ("dmd2 demo", "digits"),
    ("dmd2 distill -o runs/digits mine.yaml run.steps=9", None),
    ("dmd2 distill recipes/sdxl-4step.yaml -o x y=1", "sdxl-4step"), ("", None), ("dmd2 distill 'my one.yaml'", None),
])  # fmt: skip
def test_the_packaged_recipe_is_found_in_the_command(tmp_path, command, name):
    assert read(run_folder(tmp_path, command=command)).packaged == name


def test_two_measurements_are_too_early_for_a_verdict_but_not_for_a_cause(tmp_path):
    early = verdict(tmp_path / "a", {"health/diversity": 0.1}, rows=2)
    assert early.verdict == "too early" and not early.findings
    assert verdict(tmp_path / "b", {"health/teacher/error": 9.0}, rows=1).verdict == "unhealthy"


def test_a_run_that_was_stopped_names_what_its_autopsy_found(tmp_path):
    (tmp_path / "diverged").mkdir()
    (tmp_path / "diverged" / "step-00000007.json").write_text("{}")
    found = verdict(tmp_path).findings[0]
    assert found.rule == "finite" and "diverged/step-00000007.json" in found.cause


def test_numbers_that_are_not_finite_and_lines_that_are_cut_short_are_left_out(tmp_path):
    run_folder(tmp_path, **{"health/diversity": [None, 0.9, 0.9, None, 0.9, 0.9, 0.9, None, 0.9]})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('not json\n[1, 2]\n{"step": "x"}\n{"step": 2000, "health/di')
    found = diagnose(read(tmp_path))
    assert found.verdict == "healthy" and found.step == 1800


# -- the command ---------------------------------------------------------------------------------------------------


def dmd2(*args, cwd=None):
    return subprocess.run([sys.executable, "-m", "dmd2cli", *map(str, args)], capture_output=True, text=True, cwd=cwd)


def test_the_command_says_it_in_words_and_as_json(tmp_path):
    run_folder(tmp_path / "run", **{"critic/lag": 0.3})
    said, data = dmd2("doctor", tmp_path / "run"), dmd2("doctor", tmp_path / "run", "--json")
    assert said.returncode == data.returncode == 0
    assert "unhealthy" in said.stdout and "critic/lag = 0.3" in said.stdout and "ttur=10" in said.stdout
    found = json.loads(data.stdout)
    assert found["verdict"] == "unhealthy" and found["findings"][0]["signal"] == "critic/lag"
    assert found["best"] == {"score": HEALTHY["validation/score"], "step": 200}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda f: f.mkdir(), "no run folder"),
        (lambda f: run_folder(f).joinpath("metrics.jsonl").unlink(), "nothing is logged yet"),
        (lambda f: run_folder(f).joinpath("metrics.jsonl").write_text("\n\n"), "no line of it can be read"),
        (lambda f: run_folder(f).joinpath("recipe.yaml").write_text("teacher: ["), "recipe.yaml"),
    ],
)
def test_a_folder_that_holds_no_run_is_one_line(tmp_path, make, said):
    make(tmp_path / "run")
    with pytest.raises(UserError, match=said):
        read(tmp_path / "run")


def test_overrides_of_a_run_are_refused(tmp_path):
    found = dmd2("doctor", run_folder(tmp_path), "ttur=5")
    assert found.returncode == 2 and "a run has its recipe already" in found.stderr and "\n" not in found.stderr.strip()
