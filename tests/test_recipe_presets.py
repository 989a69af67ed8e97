"""Presets: defaults below everything else, three of them, each value with its source."""

import pytest
from written import GOOD, PRETRAIN, refusal

from dmd2cli import recipe_files
from dmd2cli.errors import UserError
from dmd2cli.recipe import differences, dump, leaves, load, load_any
from dmd2cli.recipe_build import check
from dmd2cli.recipe_explain import comments
from dmd2cli.recipe_stages import staged

NAMES = ("dmd1-paper", "dmd2-release", "fastgen")
MINIMAL = """\
teacher: digits
student: {lr: 1.0e-3}
critic: {lr: 1.0e-3}
data: {prompts: {use: class-labels, classes: 10}, real: {use: digits}}
sampler: heun
run: {steps: 100, batch: 64}
"""


def preset(name, text=MINIMAL):
    return f"preset: {name}\n{text}"


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_completes_a_minimal_recipe_and_names_what_is_installed(write, name):
    recipe = load(write(preset(name)))
    check(recipe)
    assert recipe.preset == name and recipe.bins == 1000 and recipe.run.clip == 10.0


def test_these_are_all_presets_and_none_is_listed_as_a_recipe():
    assert tuple(recipe_files.presets()) == NAMES
    assert not [name for name in recipe_files.packaged() if "presets" in name or name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_every_value_of_a_preset_has_its_source_beside_it(name):
    found = recipe_files.preset(name)
    notes = comments(recipe_files.presets()[name].read_text(encoding="utf-8"))
    assert found.data["losses"] and recipe_files.presets()[name].read_text(encoding="utf-8").startswith("# ")
    for key, _ in leaves(found.data):
        label, _, line = found.places[key].rpartition(":")
        assert label == f"preset {name}" and notes.get(int(line)), key


def test_the_release_is_the_released_dmd2(write):
    recipe = load(write(preset("dmd2-release")))
    weights = {name: term.weight for name, term in recipe.losses.items()}
    assert weights == {"distribution_matching": 1.0, "gan_generator": 3e-3, "denoising": 1.0, "gan_critic": 1e-2}
    assert (recipe.ttur, recipe.turns, recipe.critic.head.reads) == (5, "together", "critic")
    assert recipe.student.input == "simulated" and not recipe.data.prompts_of_real
    assert recipe.student.ema_halflife_images is None and recipe.critic.clip == "run"


def test_the_first_paper_has_pairs_and_no_gan(write):
    recipe = load(write(preset("dmd1-paper")))
    assert set(recipe.losses) == {"distribution_matching", "regression", "denoising"} and recipe.ttur == 1
    assert recipe.losses["regression"].weight == 0.25
    assert recipe.losses["regression"].options == {"distance": "lpips", "resize": 224}
    assert recipe.data.pairs.use == "pairs" and not recipe.data.pairs.matched


def test_fastgen_alternates_and_reads_the_teacher_with_one_time_range(write):
    recipe = load(write(preset("fastgen")))
    assert (recipe.ttur, recipe.turns, recipe.critic.head.reads) == (5, "alternate", "teacher")
    assert recipe.critic.clip is None and recipe.student.clip == "run" and recipe.data.prompts_of_real
    for name, (low, high) in {
        "distribution_matching": ("t_min", "t_max"), "denoising": ("t_min", "t_max"),
        "gan_generator": ("diffusion_min_time", "diffusion_max_time"),
        "gan_critic": ("diffusion_min_time", "diffusion_max_time"),
    }.items():  # fmt: skip
        options = recipe.losses[name].options
        assert (options[low], options[high]) == (0.002, 0.998), name


# -- the order ---------------------------------------------------------------------------------------------------


def test_a_preset_lies_below_the_recipe_and_above_the_defaults(write):
    recipe = load(write(preset("dmd2-release", MINIMAL + "ttur: 7\nlosses: {gan_generator: {weight: 0.5}}\n")))
    assert recipe.ttur == 7 and recipe.bins == 1000
    assert recipe.losses["gan_generator"].weight == 0.5
    assert recipe.losses["gan_generator"].options["diffusion_max_time"] == 1.0


def test_a_preset_named_by_a_parent_a_tier_or_an_override_lies_below_all_of_them(write):
    write(preset("dmd1-paper", MINIMAL + "ttur: 3\ntiers: {other: {preset: fastgen}}\n"), "parent.yaml")
    child = write("extends: parent.yaml\nturns: alternate\n")
    for overrides, name in ([], "dmd1-paper"), (["tier=other"], "fastgen"), (["preset=dmd2-release"], "dmd2-release"):
        recipe = load(child, overrides)
        assert (recipe.preset, recipe.ttur, recipe.turns) == (name, 3, "alternate")
        assert ("regression" in recipe.losses) == (name == "dmd1-paper")


def test_a_preset_is_taken_away_with_null(write):
    recipe = load(write(GOOD + "preset: dmd2-release\n"), ["preset=null"])
    assert recipe.preset is None and not differences(recipe, load(write()))


def test_a_term_of_a_preset_is_removed_with_null(write):
    recipe = load(write(preset("dmd2-release")), ["losses.gan_generator=null", "losses.gan_critic=null"])
    assert set(recipe.losses) == {"distribution_matching", "denoising"}


def test_stages_lie_above_the_preset(write):
    text = MINIMAL + "stages: [{until: 10, losses: {gan_generator: null}}, {losses: {gan_critic: {r1: 0.1}}}]\n"
    first, second = (stage.recipe for stage in staged(load(write(preset("dmd2-release", text)))))
    assert "gan_generator" not in first.losses and first.losses["gan_critic"].options["r1"] == 0.0
    assert "gan_generator" not in second.losses and second.losses["gan_critic"].options["r1"] == 0.1
    assert second.losses["gan_critic"].weight == 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_a_resolved_recipe_reads_back_the_same_though_its_preset_lies_below_it_again(write, name):
    changes = ["losses.denoising=null", "losses.joint_critic={gan: 0.5}", "bins=null", "data.pairs=null", "ttur=2"]
    text = MINIMAL + "stages: [{until: 10, student: {lr: 1.0}}, {losses: {denoising: {}}}]\n"
    recipe = load(write(preset(name, text)), changes)
    again = load(write(dump(recipe), "resolved.yaml"))
    assert again.preset == name and "denoising" not in again.losses and not differences(again, recipe)
    assert dump(again) == dump(recipe)
    for before, after in zip(staged(recipe), staged(again), strict=True):
        assert not differences(before.recipe, after.recipe)


# -- what is refused, and where it stands ------------------------------------------------------------------------


def test_an_unknown_preset_is_answered_with_the_nearest(write):
    assert refusal(write(preset("fastgne"))) == "r.yaml:1: preset: unknown preset 'fastgne'; did you mean 'fastgen'?"


def test_a_preset_that_is_no_name_is_refused(write):
    assert refusal(write(preset("[fastgen]"))).startswith("r.yaml:1: preset: must be a valid string")


def test_a_pretraining_has_no_presets(write):
    with pytest.raises(UserError, match=r"^r.yaml:4: preset: unknown key"):
        load_any(write(PRETRAIN + "preset: fastgen\n"))


def test_a_value_of_a_preset_says_so_in_messages(write):
    said = refusal(write(preset("dmd2-release")), "student.betas.0=0.5", "student.betas.1=2")
    assert said.startswith("override 'student.betas.1=2': student.betas.1: must be less than or equal to 1, got 2")
    places = load(write(preset("dmd2-release"))).places
    assert places["student.betas"].startswith("preset dmd2-release:") and places["preset"] == "r.yaml:1"
