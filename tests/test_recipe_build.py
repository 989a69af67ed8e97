"""From recipe to objects: unknown plugins, bad options, and what the factory is given."""

from dataclasses import dataclass

import pytest
from distributions import install
from written import GOOD, PRETRAIN

from dmd2cli import registry
from dmd2cli.errors import UserError
from dmd2cli.recipe import PretrainRecipe, Term, Use, load
from dmd2cli.recipe_build import build, check


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
    source = "def make():\n    import no_such_package\n"
    install(tmp_path, "dmd2-late", "[dmd2.samplers]\nlate = late_module:make\n", late_module=source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="sampler 'late' needs no_such_package: pip install no_such_package"):
        build("samplers", Use(use="late"), "sampler")
