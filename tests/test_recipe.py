"""Recipes: what is read, what is refused and with which words, and what is built from them."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import ValidationError

from dmd2cli import recipe_files, registry
from dmd2cli.errors import UserError
from dmd2cli.recipe import PretrainRecipe, Recipe, Term, Use, differences, dump, load, load_any, schema
from dmd2cli.recipe_build import build, check

GOOD = """\
# A recipe for tests.
teacher: {use: gmm, modes: 8}
student: {lr: 1.0e-4, times: [1.0, 0.5]}
critic:
  lr: 2
ttur: 5
losses:
  distribution_matching: {weight: 1.0, guidance: 2.0}
  denoising: {}
data: {real: {use: gmm}}
sampler: heun
metrics: [modes, {use: modes, n: 7}]
run: {steps: 100, batch: 64}
tiers:
  tiny:
    run: {steps: 2}
    teacher: {use: digits}
"""
PRETRAIN = "task: digits-teacher\noptimiser: {lr: 1.0e-3}\nrun: {steps: 1, batch: 1}\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text=GOOD, name="r.yaml"):
        Path(name).write_text(text)
        return name

    return write


def refusal(path, *overrides, model=Recipe):
    with pytest.raises(UserError) as caught:
        load(path, overrides, model=model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- what is read ----------------------------------------------------------------------------------------------


def test_every_field_is_read_and_the_others_have_their_defaults(write):
    recipe = load(write())
    assert recipe.teacher.use == "gmm" and recipe.teacher.options == {"modes": 8}
    assert recipe.student.times == (1.0, 0.5) and recipe.student.betas == (0.9, 0.999)
    assert recipe.losses["distribution_matching"].options == {"guidance": 2.0}
    assert recipe.run.micro_batch is None and recipe.run.keep == 3 and recipe.run.clip == 10.0
    assert recipe.data.prompts is None


def test_an_integer_is_accepted_where_a_number_is_expected(write):
    lr = load(write()).critic.lr
    assert lr == 2.0 and isinstance(lr, float)


def test_a_bare_name_is_a_plugin_without_options(write):
    recipe = load(write())
    assert recipe.sampler.use == "heun" and recipe.sampler.options == {}
    assert [metric.options for metric in recipe.metrics] == [{}, {"n": 7}]


def test_a_recipe_is_frozen(write):
    with pytest.raises(ValidationError):
        load(write()).run.steps = 5


def test_a_byte_order_mark_and_windows_line_ends_are_read(write, tmp_path):
    (tmp_path / "dos.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert not differences(load("dos.yaml"), load(write()))


def test_the_resolved_dump_reads_back_as_the_same_recipe(write):
    recipe = load(write(), ["tier=tiny", "student.ema_halflife_images=5000"])
    assert not differences(load(write(dump(recipe), "resolved.yaml")), recipe)


def test_the_dump_of_a_pretraining_recipe_reads_back(write):
    recipe = load(write(PRETRAIN), model=PretrainRecipe)
    assert not differences(load_any(write(dump(recipe), "resolved.yaml")), recipe)


def test_differences_name_the_key_and_both_values(write):
    old, new = load(write()), load(write(), ["run.steps=7", "teacher.modes=9", "losses.denoising=null"])
    assert differences(old, new) == [
        ("teacher.modes", 8, 9), ("losses.denoising.weight", 1.0, None), ("run.steps", 100, 7)
    ]  # fmt: skip


def test_the_schema_names_the_losses_and_the_directives():
    properties = schema()["properties"]
    assert set(properties["losses"]["properties"]) == set(registry.names("losses"))
    assert {"extends", "tiers", "teacher", "run"} <= set(properties)


# -- overrides, tiers, parents ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("run.steps=7", lambda r: r.run.steps == 7),
        ("run.clip=null", lambda r: r.run.clip is None),
        ("student.lr=5.0e-7", lambda r: r.student.lr == 5e-7),
        ("student.times=[0.9, 0.1]", lambda r: r.student.times == (0.9, 0.1)),
        ("losses.denoising.weight=0.5", lambda r: r.losses["denoising"].weight == 0.5),
        ("losses.denoising=null", lambda r: set(r.losses) == {"distribution_matching"}),
        ("sampler.steps=3", lambda r: r.sampler.use == "heun" and r.sampler.options == {"steps": 3}),
        ("sampler=ddim", lambda r: r.sampler.use == "ddim"),
        ("sampler={use: ddim, steps: 4}", lambda r: r.sampler.options == {"steps": 4}),
        ("data.prompts=class-labels", lambda r: r.data.prompts.use == "class-labels"),
        ("teacher.path=a=b", lambda r: r.teacher.options == {"modes": 8, "path": "a=b"}),
        ('teacher.path="1e5"', lambda r: r.teacher.options["path"] == "1e5"),
    ],
)
def test_an_override_sets_any_key(write, override, value):
    assert value(load(write(), [override]))


def test_later_overrides_win(write):
    assert load(write(), ["run.steps=7", "run.steps=8"]).run.steps == 8


def test_another_plugin_starts_without_the_options_of_the_first(write):
    assert load(write(), ["teacher.use=digits"]).teacher.options == {}


def test_a_tier_is_laid_over_the_recipe_and_under_the_overrides(write):
    recipe = load(write(), ["run.steps=3", "tier=tiny"])
    assert recipe.run.steps == 3 and recipe.run.batch == 64 and recipe.teacher.use == "digits"


def test_a_child_is_laid_over_its_parent_found_beside_it(write, tmp_path):
    (tmp_path / "deep").mkdir()
    write(name="deep/parent.yaml")
    recipe = load(write("extends: parent.yaml\nlosses: {denoising: null}\nrun: {steps: 9}\n", "deep/child.yaml"))
    assert recipe.run.steps == 9 and recipe.run.batch == 64 and set(recipe.losses) == {"distribution_matching"}


def test_a_child_may_choose_a_tier_of_its_parent(write):
    write(name="parent.yaml")
    assert load(write("extends: parent.yaml\n"), ["tier=tiny"]).run.steps == 2


# -- packaged recipes ------------------------------------------------------------------------------------------


@pytest.fixture
def packaged(tmp_path_factory, monkeypatch):
    root = tmp_path_factory.mktemp("packaged")
    (root / "toy").mkdir()
    for name in ("demo.yaml", "toy/grid.yaml"):
        (root / name).write_text(GOOD)
    monkeypatch.setattr(recipe_files, "files", lambda package: root)


@pytest.mark.parametrize("name", ["demo", "demo.yaml", "recipes/demo.yaml", "./recipes/demo.yaml", "toy/grid"])
def test_a_path_that_is_not_on_disk_falls_back_to_the_packaged_recipe(packaged, write, name):
    assert load(name).run.steps == 100


def test_a_file_on_disk_comes_before_the_packaged_recipe(packaged, write):
    assert load(write(GOOD.replace("steps: 100", "steps: 101"), "demo.yaml")).run.steps == 101


def test_a_folder_of_that_name_does_not_hide_the_packaged_recipe(packaged, write, tmp_path):
    (tmp_path / "demo").mkdir()
    assert load("demo").run.steps == 100


def test_a_missing_file_is_answered_with_the_nearest_packaged_name(packaged, write):
    assert refusal("recipes/dmeo.yaml") == (
        "recipes/dmeo.yaml: no such file, and no packaged recipe of that name; did you mean 'demo'?"
    )


def test_every_packaged_recipe_and_each_of_its_tiers_loads_and_names_what_is_installed():
    names = list(recipe_files.packaged())
    assert names
    for name in names:
        tiers = recipe_files.read(recipe_files.find(name)).data.get("tiers", {})
        for overrides in ([], *([f"tier={tier}"] for tier in tiers)):
            check(load_any(name, overrides))


# -- files that are no recipe ----------------------------------------------------------------------------------


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


# -- values that are no recipe ---------------------------------------------------------------------------------

BAD = [
    ("lr: 2", "lr: fast", 5, 'critic.lr: must be a valid number, got "fast"'),
    ("lr: 2", "lr: '2'", 5, 'critic.lr: must be a valid number, got "2"'),
    ("lr: 2", "lr: true", 5, "critic.lr: must be a valid number, got true"),
    ("lr: 2", "lr: 0", 5, "critic.lr: must be greater than 0, got 0"),
    ("lr: 2", "lr: .inf", 5, "critic.lr: must be a finite number"),
    ("lr: 2", "lr: .nan", 5, "critic.lr: must be"),
    ("lr: 2", "", 4, "critic: must be a mapping, got null"),
    ("lr: 2", "lr: 2\n  speed: 1", 6, "critic.speed: unknown key; choose from betas, decay_from, "),
    ("lr: 2", "weight_decy: 1", 5, "critic.weight_decy: unknown key; did you mean 'weight_decay'? (+1 more)"),
    ("lr: 2", "betas: [0.9, 0.99]", 4, "critic.lr is missing: add it, or pass critic.lr=VALUE"),
    ("lr: 2", "lr: 2\n  betas: [0.9]", 6, "critic.betas.1 is missing: add it"),
    ("ttur: 5", "ttur: 0", 6, "ttur: must be greater than 0, got 0"),
    ("ttur: 5", "ttur: 2.5", 6, "ttur: must be a valid integer, got 2.5"),
    ("ttur: 5", "turt: 5", 6, "turt: unknown key; did you mean 'ttur'?"),
    ("steps: 100", "steps: -1", 13, "run.steps: must be greater than 0, got -1"),
    ("batch: 64", "batch: 64, micro_batch: 7", 13, "run.micro_batch: must divide run.batch, and 64 is no multiple of 7"),
    ("batch: 64", "batch: 64, precision: fp16", 13, "run.precision: must be 'auto', 'fp32' or 'bf16', got \"fp16\""),
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


# -- names and options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("denoising: {}", "denoisng: {}", "r.yaml:9: losses.denoisng: unknown loss; did you mean 'denoising'?"),
        ("heun", "huen", "r.yaml:11: sampler: unknown sampler 'huen'; did you mean 'heun'?"),
        ("{use: gmm, m", "{use: gmn, m", "r.yaml:2: teacher: unknown teacher 'gmn'; did you mean 'gmm'?"),
        ("[modes,", "[modse,", "r.yaml:12: metrics.0: unknown metric 'modse'; did you mean 'modes'?"),
        ("real: {use: gmm}", "real: gnm", "r.yaml:10: data.real: unknown dataset 'gnm'; did you mean 'gmm'?"),
    ],
)
def test_an_unknown_plugin_is_refused_with_its_line(write, old, new, said):
    with pytest.raises(UserError) as caught:
        check(load(write(GOOD.replace(old, new))))
    assert str(caught.value) == said


def test_an_unknown_plugin_in_an_override_quotes_it(write):
    with pytest.raises(UserError, match=r"^override 'losses.gan.weight=1': losses.gan: unknown loss"):
        check(load(write(), ["losses.gan.weight=1"]))


def test_an_unknown_pretraining_task_is_refused(write):
    with pytest.raises(UserError, match=r"^r.yaml:1: task: unknown pretraining task 'x'"):
        check(load(write(PRETRAIN.replace("digits-teacher", "x")), model=PretrainRecipe))


def test_check_passes_a_good_recipe(write):
    check(load(write()))


@dataclass(frozen=True)
class Sampler:
    steps: int
    sigma: float | None = None
    times: tuple[float, ...] = (1.0,)
    model: "NotDefinedAnywhere" = None

    def __post_init__(self):
        if self.steps < 1:
            raise UserError(f"steps must be at least 1, got {self.steps}")


def made(options, factory=Sampler, **given):
    with registry.override("samplers", "mine", factory):
        return build("samplers", Use(use="mine", **options), "sampler", **given)


def test_build_calls_the_factory_with_the_options_as_annotated():
    assert made({"steps": 3, "sigma": 2, "times": [1, 0.5]}) == Sampler(3, 2.0, (1.0, 0.5))


def test_build_finds_a_loss_by_its_key():
    with registry.override("losses", "mine", Sampler):
        assert build("losses", Term(weight=2.0, steps=3), "losses.mine") == Sampler(3)


def test_build_hands_on_what_the_engine_gives_and_keeps_options_off_it():
    assert made({"steps": 3}, model="net").model == "net"
    with pytest.raises(UserError, match="sampler.model: unknown key"):
        made({"steps": 3, "model": "net"}, model="net")


def test_build_passes_free_options_to_a_factory_that_takes_any():
    assert made({"a": 1, "b": [2]}, factory=lambda a=0, **rest: (a, rest)) == (1, {"b": [2]})


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"stpes": 3}, "sampler.stpes: unknown key; did you mean 'steps'? (+1 more)"),
        ({}, "sampler.steps is missing: add it, or pass sampler.steps=VALUE"),
        ({"steps": 2.5}, "sampler.steps: must be a valid integer, got 2.5"),
        ({"steps": "3"}, 'sampler.steps: must be a valid integer, got "3"'),
        ({"steps": True}, "sampler.steps: must be a valid integer, got true"),
        ({"steps": 3, "sigma": "big"}, 'sampler.sigma: must be a valid number, got "big"'),
        ({"steps": 3, "times": [1, "x"]}, 'sampler.times.1: must be a valid number, got "x"'),
        ({"steps": 0}, "sampler: steps must be at least 1, got 0"),
    ],
)
def test_a_bad_option_is_refused(options, what):
    with pytest.raises(UserError) as caught:
        made(options)
    assert str(caught.value) == what


def test_a_bad_option_names_its_line(write):
    recipe = load(write(GOOD.replace("sampler: heun", "sampler:\n  use: mine\n  steps: 1\n  stop: 2")))
    with registry.override("samplers", "mine", Sampler), pytest.raises(UserError) as caught:
        build("samplers", recipe.sampler, "sampler")
    assert str(caught.value).startswith("r.yaml:14: sampler.stop: unknown key; did you mean 'steps'?")


def test_a_package_missing_only_when_the_factory_runs_is_named(tmp_path, monkeypatch):
    from distributions import install

    source = "def make():\n    import no_such_package\n"
    install(tmp_path, "dmd2-late", "[dmd2.samplers]\nlate = late_module:make\n", late_module=source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="sampler 'late' needs no_such_package: pip install no_such_package"):
        build("samplers", Use(use="late"), "sampler")
