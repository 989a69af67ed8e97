"""Recipes that are read: fields, defaults, overrides, tiers, parents, packaged ones, and the dump back."""

import pytest
from pydantic import ValidationError
from written import GOOD, PRETRAIN, refusal

from dmd2cli import recipe_files, registry
from dmd2cli.recipe import PretrainRecipe, Use, differences, dump, load, load_any, schema
from dmd2cli.recipe_build import check

# -- what is read --------------------------------------------------------------------------------------------


def test_every_field_is_read_and_the_others_have_their_defaults(write):
    recipe = load(write())
    assert recipe.teacher.use == "gmm" and recipe.teacher.options == {"modes": 8}
    assert recipe.student.times == (1.0, 0.5) and recipe.student.betas == (0.9, 0.999)
    assert recipe.losses["distribution_matching"].options == {"guidance": 2.0}
    assert recipe.run.micro_batch is None and recipe.run.keep.last == 3 and recipe.run.clip == 10.0
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


@pytest.mark.parametrize(
    "text", ["1e5", "5e-7", ".5e7", "yes", "null", "~", "", "2020-01-01", "a: b", "#x", "*x", "a\nb", "0x1F", "ü", " "]
)
def test_any_text_in_an_option_survives_the_dump(write, text):
    recipe = load(write()).model_copy(update={"sampler": Use(use="heun", text=text, list=[text, {"deep": text}])})
    assert not differences(load(write(dump(recipe), "resolved.yaml")), recipe)


def test_values_used_twice_are_dumped_without_aliases(write):
    shared = [1, 2]
    recipe = load(write()).model_copy(update={"sampler": Use(use="heun", a=shared, b=shared)})
    assert load(write(dump(recipe), "resolved.yaml")).sampler.options == {"a": [1, 2], "b": [1, 2]}


def test_the_dump_of_a_pretraining_recipe_reads_back(write):
    recipe = load(write(PRETRAIN), model=PretrainRecipe)
    assert not differences(load_any(write(dump(recipe), "resolved.yaml")), recipe)


def test_differences_name_the_key_and_both_values(write):
    old, new = load(write()), load(write(), ["run.steps=7", "teacher.modes=9", "losses.denoising=null"])
    assert differences(old, new) == [
        ("teacher.modes", 8, 9), ("losses.denoising.weight", 1.0, None), ("losses.denoising.auto_updates", 50, None),
        ("run.steps", 100, 7),
    ]  # fmt: skip


def test_differences_look_into_lists_of_plugins_and_take_other_lists_whole(write):
    old, new = load(write()), load(write(), ["metrics.1.n=8", "student.times=[1.0]"])
    assert differences(old, new) == [("student.times", [1.0, 0.5], [1.0]), ("metrics.1.n", 7, 8)]


def test_the_schema_names_the_losses_and_the_directives():
    properties = schema()["properties"]
    assert set(properties["losses"]["properties"]) == set(registry.names("losses"))
    assert {"extends", "tiers", "teacher", "run"} <= set(properties)


def test_the_schema_describes_stages_as_partial_recipes_with_an_end():
    found = schema()
    assert found["properties"]["stages"]["items"] == {"$ref": "#/$defs/Stage"}
    stage = found["$defs"]["Stage"]
    assert {"until", "losses", "student", "run"} <= set(stage["properties"]) and not stage["additionalProperties"]
    assert not {"teacher", "stages", "preset", "extends", "tiers"} & set(stage["properties"])
    assert stage["properties"]["losses"] == found["properties"]["losses"]


def test_the_schema_names_the_presets_and_lets_pairs_be_a_bare_name():
    found = schema()
    assert found["properties"]["preset"]["anyOf"][0] == {"enum": list(recipe_files.presets())}
    assert found["$defs"]["Pairs"]["anyOf"][0] == {"type": "string"}

# -- overrides, tiers, parents -------------------------------------------------------------------------------


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
        ("metrics.1.n=8", lambda r: [m.options for m in r.metrics] == [{}, {"n": 8}]),
        ("metrics.0.n=8", lambda r: r.metrics[0].use == "modes" and r.metrics[0].options == {"n": 8}),
        ("metrics.1.use=fd-digits", lambda r: r.metrics[1].use == "fd-digits" and r.metrics[1].options == {}),
        ("metrics.1=modes", lambda r: r.metrics[1].options == {}),
        ("student.times.1=0.25", lambda r: r.student.times == (1.0, 0.25)),
        ("metrics=[modes]", lambda r: len(r.metrics) == 1),
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


def test_a_child_or_tier_that_numbers_the_items_of_a_list_changes_those_alone(write):
    write(name="parent.yaml")
    child = 'extends: parent.yaml\nmetrics: {"1": {n: 9}}\ntiers: {few: {metrics: {"1": {n: 1}, "0": fd-digits}}}\n'
    assert [m.options for m in load(write(child)).metrics] == [{}, {"n": 9}]
    few = load(write(child), ["tier=few"])
    assert [(m.use, m.options) for m in few.metrics] == [("fd-digits", {}), ("modes", {"n": 1})]


def test_places_follow_the_items_of_a_list_that_an_override_changes(write):
    places = load(write(), ["metrics.0.n=8", "metrics.1.n=9"]).places
    assert places["metrics.0.use"] == "r.yaml:12" and places["metrics.0.n"] == "override 'metrics.0.n=8'"
    assert places["metrics.1.use"] == "r.yaml:12" and places["metrics.1.n"] == "override 'metrics.1.n=9'"


def test_what_is_replaced_leaves_no_places_behind(write):
    places = load(write(), ["metrics=[modes]", "teacher.use=digits"]).places
    assert "metrics.1" not in places and "metrics.1.n" not in places and "teacher.modes" not in places
    assert places["metrics.0"] == "override 'metrics=[modes]'"


def test_a_child_may_choose_a_tier_of_its_parent(write):
    write(name="parent.yaml")
    assert load(write("extends: parent.yaml\n"), ["tier=tiny"]).run.steps == 2

# -- packaged recipes ----------------------------------------------------------------------------------------


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
