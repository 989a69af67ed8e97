"""Stages of a recipe: how they are laid over it, where they end, and what is said of bad ones."""

import pytest
from written import GOOD, refusal

from dmd2cli.errors import UserError
from dmd2cli.recipe import differences, dump, load
from dmd2cli.recipe_build import check
from dmd2cli.recipe_stages import FIXED, Stage, staged

BASE = GOOD[: GOOD.index("tiers:")]                        # 13 lines, run.steps 100
STAGED = f"""{BASE}\
stages:
  - until: 20
    losses: {{denoising: null, gan_critic: {{weight: 0.5}}}}
  - until: 60
    student: {{lr: 1.0e-5}}
    sampler: {{steps: 9}}
  - losses:
      denoising: {{weight: 3.0}}
    metrics: {{"1": {{n: 9}}}}
"""


def stages(*lines):
    return BASE + "stages:\n" + "".join(f"  - {line}\n" for line in lines)


def spans(recipe):
    return [(stage.first, stage.until) for stage in staged(recipe)]


# -- what they mean --------------------------------------------------------------------------------------------


def test_a_recipe_without_stages_is_one_stage(write):
    recipe = load(write())
    assert staged(recipe) == [Stage(0, 100, recipe)]


def test_stages_are_laid_over_the_rest_one_after_the_other(write):
    first, second, third = (stage.recipe for stage in staged(load(write(STAGED))))
    assert set(first.losses) == {"distribution_matching", "gan_critic"} and first.student.lr == 1e-4
    assert set(second.losses) == set(first.losses) and second.losses["gan_critic"].weight == 0.5
    assert second.student.lr == 1e-5 and second.student.times == (1.0, 0.5)
    assert second.sampler.use == "heun" and second.sampler.options == {"steps": 9}
    assert set(third.losses) == {"distribution_matching", "gan_critic", "denoising"} and third.student.lr == 1e-5
    assert [metric.options for metric in third.metrics] == [{}, {"n": 9}]


def test_a_stage_ends_where_the_next_begins_and_the_last_with_the_run(write):
    assert spans(load(write(STAGED))) == [(0, 20), (20, 60), (60, 100)]


def test_every_stage_is_a_whole_recipe_of_the_whole_run(write):
    for stage in staged(load(write(STAGED))):
        assert stage.recipe.stages == () and stage.recipe.run.steps == 100


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        (100, [(0, 20), (20, 60), (60, 100)]),
        (60, [(0, 20), (20, 60)]),
        (50, [(0, 20), (20, 50)]),
        (20, [(0, 20)]),
        (5, [(0, 5)]),
        (300, [(0, 20), (20, 60), (60, 300)]),
    ],
)
def test_a_run_of_other_length_is_cut_or_goes_on_in_the_last_stage(write, steps, wanted):
    assert spans(load(write(STAGED), [f"run.steps={steps}"])) == wanted


def test_a_last_stage_with_an_end_beyond_the_run_is_cut_there(write):
    assert spans(load(write(stages("until: 40", "until: 400")))) == [(0, 40), (40, 100)]


def test_an_override_of_one_stage_leaves_the_others(write):
    recipe = load(write(STAGED), ["stages.1.until=70", "stages.1.student.lr=2.0e-5"])
    assert spans(recipe) == [(0, 20), (20, 70), (70, 100)]
    assert [stage.recipe.student.lr for stage in staged(recipe)] == [1e-4, 2e-5, 2e-5]


def test_a_tier_may_shorten_the_stages(write):
    tiny = "tiers:\n  tiny:\n    run: {steps: 4}\n    stages: {\"0\": {until: 1}, \"1\": {until: 2}}\n"
    assert spans(load(write(STAGED + tiny), ["tier=tiny"])) == [(0, 1), (1, 2), (2, 4)]


def test_a_stage_starts_a_plugin_or_a_removed_term_afresh(write):
    text = stages(
        "{until: 20, sampler: {steps: 9}, losses: {distribution_matching: null}}",
        "{sampler: {use: ddim}, losses: {distribution_matching: {}}}",
    )
    first, last = (stage.recipe for stage in staged(load(write(text))))
    assert first.sampler.options == {"steps": 9} and "distribution_matching" not in first.losses
    assert last.sampler.use == "ddim" and last.sampler.options == {}
    assert last.losses["distribution_matching"].options == {}


# -- where things were written ---------------------------------------------------------------------------------


def test_places_of_a_stage_are_its_own_lines_and_else_those_of_the_rest(write):
    first, second, third = (stage.recipe.places for stage in staged(load(write(STAGED), ["stages.1.sampler.steps=8"])))
    assert first["losses.gan_critic.weight"] == "r.yaml:16" and first["student.lr"] == "r.yaml:3"
    assert second["student.lr"] == "r.yaml:18" and second["losses.gan_critic.weight"] == "r.yaml:16"
    assert second["sampler.steps"] == "override 'stages.1.sampler.steps=8'" and second["sampler.use"] == "r.yaml:11"
    assert third["metrics.1.n"] == "r.yaml:22" and third["metrics.1.use"] == "r.yaml:12"


def test_parts_of_a_stage_know_their_places(write):
    last = staged(load(write(STAGED)))[-1].recipe
    assert last.losses["denoising"].places["losses.denoising.weight"] == "r.yaml:21"


# -- there and back --------------------------------------------------------------------------------------------


def test_a_staged_recipe_survives_the_dump(write):
    recipe = load(write(STAGED), ["stages.1.until=70"])
    again = load(write(dump(recipe), "resolved.yaml"))
    assert again.stages == recipe.stages and not differences(again, recipe)
    for before, after in zip(staged(recipe), staged(again), strict=True):
        assert (before.first, before.until) == (after.first, after.until)
        assert not differences(before.recipe, after.recipe)


def test_differences_name_the_stage_and_its_key(write):
    changes = ["stages.1.until=70", "stages.0.losses.gan_critic.weight=0.1"]
    found = differences(load(write(STAGED)), load(write(STAGED), changes))
    assert found == [("stages.0.losses.gan_critic.weight", 0.5, 0.1), ("stages.1.until", 60, 70)]


# -- what is refused -------------------------------------------------------------------------------------------

BAD = [
    (["until: 20", "until: 20", "{}"], 16, "stages.1.until: 20 is not after stages.0.until = 20; raise it"),
    (["until: 20", "until: 10", "{}"], 16, "stages.1.until: 10 is not after stages.0.until = 20; raise it"),
    (["until: 20", "until: 90"], 16, "stages.1.until: the last stage ends at 90, run.steps is 100; raise it, or leave"),
    (["until: 90"], 15, "stages.0.until: the last stage ends at 90, run.steps is 100"),
    (["ttur: 2", "until: 90"], 15, "stages.0.until is missing: only the last stage may leave it out; add it, or pass"),
    (["until: 0", "{}"], 15, "stages.0.until: must be a whole number of steps above 0, got 0"),
    (["until: -3", "{}"], 15, "stages.0.until: must be a whole number of steps above 0, got -3"),
    (["until: 2.5", "{}"], 15, "stages.0.until: must be a whole number of steps above 0, got 2.5"),
    (["until: true", "{}"], 15, "stages.0.until: must be a whole number of steps above 0, got true"),
    (["until: '9'", "{}"], 15, 'stages.0.until: must be a whole number of steps above 0, got "9"'),
    (["until: 9", "5"], 16, "stages.1: must be a mapping, got 5"),
    (["until: 9", "[]"], 16, "stages.1: must be a mapping, got []"),
    (["until: 9", "turt: 2"], 16, "stages.1.turt: unknown key; did you mean 'ttur'?"),
    (["until: 9", "untill: 20"], 16, "stages.1.untill: unknown key; did you mean 'until'?"),
    (["until: 9", "student: {l: 2}"], 16, "stages.1.student.l: unknown key; did you mean 'lr'?"),
    (["until: 9", "run: {stepz: 2}"], 16, "stages.1.run.stepz: unknown key; choose from batch, clip, keep, "),
    (["until: 9", "student: {lr: x}"], 16, 'stages.1.student.lr: must be a valid number, got "x"'),
    (["until: 9", "losses: {denoising: {weight: x}}"], 16, "stages.1.losses.denoising.weight: must be a valid number"),
    (["until: 9", "student: null"], 16, "stages.1.student: must be a mapping, got null"),
    (["until: 9", "run: {micro_batch: 7}"], 16, "stages.1.run.micro_batch: must divide run.batch, and 64 is no"),
    (["until: 9", "run: {batch: 7, micro_batch: 2}"], 16, "stages.1.run.micro_batch: must divide run.batch, and 7 is"),
    (["until: 9", "data: {pairs: {batch: 2}}"], 16, "stages.1.data.pairs.use is missing: add it, or pass stages"),
    (["until: 200", "turt: 2"], 16, "stages.1.turt: unknown key"),
]


@pytest.mark.parametrize(("lines", "line", "what"), BAD)
def test_a_bad_stage_is_refused_with_its_line_and_key(write, lines, line, what):
    assert refusal(write(stages(*lines))).startswith(f"r.yaml:{line}: {what}")


def test_stages_that_are_no_list_are_refused(write):
    assert refusal(write(f"{BASE}stages: {{until: 5}}\n")).startswith("r.yaml:14: stages: must be a list")


@pytest.mark.parametrize("key", FIXED)
def test_what_belongs_to_the_whole_run_is_refused_in_a_stage(write, key):
    path, value = key.split("."), "x"
    nested = f"{path[0]}: {{{path[1]}: {value}}}" if len(path) > 1 else f"{key}: {value}"
    said = refusal(write(stages("until: 9", nested)))
    assert said == f"r.yaml:16: stages.1.{key}: belongs to the whole run; move it out of stages"


def test_overrides_of_stages_are_quoted_when_they_are_wrong(write):
    name = write(STAGED)
    assert refusal(name, "stages.1.until=10").startswith("override 'stages.1.until=10': stages.1.until: 10 is")
    assert refusal(name, "stages.3.until=70") == (
        "override 'stages.3.until=70': stages.3: there is no such item: stages has 3, counted from 0"
    )


def test_a_plugin_that_only_a_stage_names_is_checked_with_its_line(write):
    with pytest.raises(UserError) as caught:
        check(load(write(stages("until: 9", "losses: {gan_critc: {}}"))))
    assert str(caught.value) == "r.yaml:16: stages.1.losses.gan_critc: unknown loss; did you mean 'gan_critic'?"


def test_plugins_are_checked_in_stages_that_are_not_reached_too(write):
    with pytest.raises(UserError, match=r"^r.yaml:16: stages.1.data.pairs: unknown dataset 'x'"):
        check(load(write(stages("until: 9", "data: {pairs: {use: x}}")), ["run.steps=5"]))


def test_check_passes_good_stages(write):
    check(load(write(STAGED)))
