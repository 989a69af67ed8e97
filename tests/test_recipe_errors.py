"""Recipes that are refused: each with its place, its key, what is wrong and what to do, in one line."""

from pathlib import Path

import pytest
from written import GOOD, PRETRAIN, refusal

from dmd2cli.recipe import PretrainRecipe

# -- files that are no recipe --------------------------------------------------------------------------------


def test_a_folder_is_refused(write, tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    assert "this is a folder" in refusal("folder.yaml")


def test_bytes_that_are_not_text_are_refused(write, tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"a: \xff\xfe")
    assert refusal("r.yaml").startswith("r.yaml: not UTF-8 text")


def test_a_file_that_may_not_be_read_is_refused(write, monkeypatch):
    def denied(self):
        raise PermissionError(13, "Permission denied", str(self))

    name = write()
    monkeypatch.setattr(Path, "read_bytes", denied)
    assert refusal(name) == "r.yaml: cannot be read: Permission denied; check the path and its rights"


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", 1, "not a mapping"),
        ("- a\n", 1, "not a mapping"),
        ("just words\n", 1, "not a mapping"),
        ("a: [1, 2\nb: 3\n", 2, "not YAML"),
        ("a: 1\n\tb: 2\n", 2, "not YAML"),
        ("a: 1\n b: 2\n", 2, "not YAML"),
        ("a: 1\n---\nb: 2\n", 2, "not YAML"),
        ("a: 1\nb: \x07\n", 2, "character U+0007"),
        ("a: !!python/object:os.system x\n", 1, "put it in quotes"),
        ("a: !!int x\n", 1, "invalid literal"),
        ("a: 2020-01-01\n", 1, "YAML reads '2020-01-01' as a timestamp"),
        ("a: 1\n1: 2\n", 2, "'1' is not text"),
        ("a: 1\nyes: 2\n", 2, "'yes' is not text"),
        ("a: 1\n? [b]\n: 2\n", 2, "a list or mapping is not text"),
        ("a: &x {b: 1}\nc: *x\n", 1, "no YAML aliases"),
        (f"a: {'[' * 5000}{']' * 5000}\n", 1, "nested too deeply"),
        ("a: &x [*x]\n", 1, "no YAML aliases"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", 4, "b.c: written twice, first at r.yaml:3; remove one"),
    ],
)
def test_yaml_that_a_recipe_may_not_hold_is_refused_with_its_line(write, text, line, what):
    said = refusal(write(text))
    assert said.startswith(f"r.yaml:{line}: ") and what in said


@pytest.mark.parametrize(
    ("written", "fixed"),
    [("5e-7", "5.0e-7"), ("-5E-7", "-5.0e-7"), ("1.0e5", "1.0e+5"), ("5.e7", "5.0e+7"), (".5e7", "0.5e+7")],
)
def test_a_number_that_yaml_takes_for_text_is_answered_with_its_right_spelling(write, written, fixed):
    said = refusal(write(GOOD.replace("lr: 2", f"lr: {written}")))
    assert said == f"r.yaml:5: critic.lr: '{written}' is text in YAML; write {fixed}"

# -- values that are no recipe -------------------------------------------------------------------------------


BAD = [
    ("lr: 2", "lr: fast", 5, 'critic.lr: must be a valid number, got "fast"'),
    ("lr: 2", "lr: '2'", 5, 'critic.lr: must be a valid number, got "2"'),
    ("lr: 2", "lr: true", 5, "critic.lr: must be a valid number, got true"),
    ("lr: 2", "lr: 0", 5, "critic.lr: must be greater than 0, got 0"),
    ("lr: 2", "lr: .inf", 5, "critic.lr: must be a finite number"),
    ("lr: 2", "lr: .nan", 5, "critic.lr: must be"),
    ("lr: 2", "", 4, "critic: must be a mapping, got null"),
    ("lr: 2", "lr: 2\n  speed: 1", 6, "critic.speed: unknown key; choose from betas, clip, decay_from, "),
    ("lr: 2", "weight_decy: 1", 5, "critic.weight_decy: unknown key; did you mean 'weight_decay'? (+1 more)"),
    ("lr: 2", "betas: [0.9, 0.99]", 4, "critic.lr is missing: add it, or pass critic.lr=VALUE"),
    ("lr: 2", "lr: 2\n  betas: [0.9]", 6, "critic.betas.1 is missing: add it"),
    ("denoising: {}", "denoising: {weight: x}", 9, "losses.denoising.weight: must be a valid number or 'auto', got "),
    ("lr: 2", "lr: 2\n  clip: 0", 6, "critic.clip: must be greater than 0 or 'run', got 0"),
    ("lr: 2", "lr: 2\n  clip: rn", 6, "critic.clip: must be a valid number or 'run', got \"rn\""),
    ("lr: 2", "lr: 2\n  clip: 0\n  warmup: -1", 6, "critic.clip: must be greater than 0 or 'run', got 0 (+1 more)"),
    ("lr: 2", "lr: 2\n  head: {read: x}", 6, "critic.head.read: unknown key; did you mean 'reads'?"),
    ("0.5]}", "0.5], guidance: {min: 1, mx: 2}}", 3, "student.guidance.mx: unknown key; did you mean 'max'?"),
    ("0.5]}", "0.5], guidance: {min: 1}}", 3, "student.guidance.max is missing: add it, or pass student.guidance.max="),
    ("0.5]}", "0.5], guidance: {min: 3, max: 2}}", 3, "student.guidance: min must be below max, got 3 and 2"),
    ("{use: gmm}}", "{use: gmm}, pairs: {batch: 2}}", 10, "data.pairs.use is missing: add it, or pass data.pairs.use="),
    ("ttur: 5", "ttur: 0", 6, "ttur: must be greater than 0, got 0"),
    ("ttur: 5", "ttur: 2.5", 6, "ttur: must be a valid integer, got 2.5"),
    ("ttur: 5", "turt: 5", 6, "turt: unknown key; did you mean 'ttur'?"),
    ("steps: 100", "steps: -1", 13, "run.steps: must be greater than 0, got -1"),
    ("batch: 64", "batch: 64, micro_batch: 7", 13, "run.micro_batch: must divide run.batch, and 64 is no"),
    (
        "batch: 64", "batch: 64, precision: fp8", 13,
        "run.precision: must be 'auto', 'fp32', 'bf16' or 'fp16', got \"fp8\"",
    ),
    ("batch: 64", "batch: 64, seed: -1", 13, "run.seed: must be greater than or equal to 0, got -1"),
    ("times: [1.0, 0.5]", "times: [0.5, 1.0]", 3, "student.times: must fall strictly and lie in (0, 1]"),
    ("times: [1.0, 0.5]", "times: [0.5, 0.5]", 3, "student.times: must fall strictly"),
    ("times: [1.0, 0.5]", "times: [1.5, 0.5]", 3, "student.times: must fall strictly"),
    ("times: [1.0, 0.5]", "times: [1.0, 0.0]", 3, "student.times: must fall strictly"),
    ("times: [1.0, 0.5]", "times: []", 3, "student.times: must fall strictly"),
    ("times: [1.0, 0.5]", "times: [1.0, x]", 3, 'student.times.1: must be a valid number, got "x"'),
    ("times: [1.0, 0.5]", "times: 1.0", 3, "student.times: must be a list, got 1.0"),
    ("{use: gmm, modes: 8}", "{modes: 8}", 2, "teacher.use is missing: add it, or pass teacher.use=VALUE"),
    ("{use: gmm, modes: 8}", "{use: 8}", 2, "teacher.use: must be a valid string, got 8"),
    ("denoising: {}", "denoising: {weight: -1}", 9, "losses.denoising.weight: must be greater than or equal to 0"),
    ("denoising: {}", "denoising: 1.0", 9, "losses.denoising: must be a mapping, got 1.0"),
    ("[modes, {use: modes, n: 7}]", "[modes, {n: 7}]", 12, "metrics.1.use is missing"),
    ("run: {steps: 100, batch: 64}\n", "", 1, "run is missing: add it, or pass run.steps=VALUE"),
    ("sampler: heun\n", "", 1, "sampler is missing: add it, or pass sampler.use=VALUE"),
    ("student: {lr: 1.0e-4, times: [1.0, 0.5]}\n", "", 1, "student is missing: add it, or pass student.lr=VALUE"),
]


@pytest.mark.parametrize(("old", "new", "line", "what"), BAD)
def test_a_bad_value_is_refused_with_its_line_and_key(write, old, new, line, what):
    assert old in GOOD
    said = refusal(write(GOOD.replace(old, new)))
    assert said.startswith(f"r.yaml:{line}: {what}")


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("run.steps", "not KEY=VALUE; write for example run.steps=200"),
        ("=3", "not KEY=VALUE"),
        ("run..steps=3", "not KEY=VALUE"),
        ("run.steps=", "no value; write run.steps=VALUE, or run.steps=null to unset it"),
        ("run.steps=x", 'run.steps: must be a valid integer, got "x"'),
        ("run.stpes=3", "run.stpes: unknown key; did you mean 'steps'?"),
        ("rnu.steps=3", "rnu: unknown key; did you mean 'run'?"),
        ("run=5", "run: must be a mapping, got 5"),
        ("student.lr=5e-7", "student.lr: '5e-7' is text in YAML; write 5.0e-7"),
        ("student.times=[1, 5e-1]", "student.times.1: '5e-1' is text in YAML; write 5.0e-1"),
        ("student.times=[1", "not YAML: "),
        ("run.steps=*x", "not YAML: "),
        ("tier=tinny", "this recipe has no tier 'tinny'; did you mean 'tiny'?"),
        ("tier.x=1", "this recipe has no tier {'x': 1}"),
        ("student.lr=null", "student.lr: must be a valid number, got null"),
        ("metrics.2.n=1", "metrics.2: there is no such item: metrics has 2, counted from 0"),
        ("metrics.01.n=1", "metrics: must be a list"),
        ("metrics.1.use=3", "metrics.1.use: must be a valid string, got 3"),
        ("run.0=3", "run.0: unknown key; choose from batch, "),
    ],
)
def test_a_bad_override_is_refused_and_quoted(write, override, what):
    assert refusal(write(), override).startswith(f"override '{override}': {what}")


def test_a_parent_that_extends_is_refused(write):
    write("extends: other.yaml\n", "parent.yaml")
    assert refusal(write("extends: parent.yaml\n")).startswith("r.yaml:1: extends: parent.yaml extends one itself")


def test_a_parent_list_is_refused(write):
    assert refusal(write("extends: [a, b]\n")).startswith("r.yaml:1: extends: must be the name of one recipe")


def test_an_error_in_a_parent_names_the_parent(write):
    write(GOOD.replace("ttur: 5", "ttur: x"), "parent.yaml")
    assert refusal(write("extends: parent.yaml\n")).startswith("parent.yaml:6: ttur: ")


@pytest.mark.parametrize("tiers", ["tiers: 5", "tiers: {tiny: 5}"])
def test_tiers_that_are_no_mappings_are_refused(write, tiers):
    said = refusal(write(GOOD[: GOOD.index("tiers:")] + tiers), "tier=tiny")
    assert said.startswith("r.yaml:14: tiers") and "must be a mapping" in said


def test_a_bad_value_in_a_tier_names_the_line_of_the_tier(write):
    assert refusal(write(GOOD.replace("steps: 2}", "steps: no}")), "tier=tiny").startswith("r.yaml:16: run.steps: ")


def test_a_recipe_for_another_command_is_answered_with_that_command(write):
    assert refusal(write(PRETRAIN)).endswith("use dmd2 pretrain r.yaml")
    assert refusal(write(), model=PretrainRecipe).endswith("use dmd2 distill r.yaml")
