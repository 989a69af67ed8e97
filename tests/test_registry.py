"""The registry against fake distributions: what is listed, what is loaded, and what is said when it cannot be."""

import sys

import pytest
from distributions import install

from dmd2cli import registry
from dmd2cli.errors import UserError, suggest


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def message(kind, name):
    with pytest.raises(UserError) as caught:
        registry.load(kind, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_names_are_listed_without_importing_the_plugin(site):
    install(site, "dmd2-fresh", "[dmd2.teachers]\nfresh = fresh_module:make\n", fresh_module="make = 'made'")
    assert "fresh" in registry.names("teachers")
    assert "fresh_module" not in sys.modules


def test_load_imports_the_plugin_and_returns_the_object(site):
    install(site, "dmd2-ready", "[dmd2.teachers]\nready = ready_module:make\n", ready_module="make = ['made']")
    assert registry.load("teachers", "ready") == ["made"]
    assert registry.load("teachers", "ready") is registry.load("teachers", "ready")


def test_a_group_of_another_kind_is_not_listed(site):
    install(site, "dmd2-kinds", "[dmd2.teachers]\nlonely = m:a\n")
    assert "lonely" not in registry.names("samplers")


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_kind_of_ours_is_described_by_our_distribution(kind):
    assert "dmd2cli" in {plugin.distribution for plugin in registry.describe(kind)}


def test_an_unknown_kind_is_our_own_mistake():
    with pytest.raises(AssertionError, match="teachers, losses"):
        registry.names("teacher")


def test_an_unknown_name_is_answered_with_the_nearest(site):
    install(site, "dmd2-near", "[dmd2.teachers]\nsdxl = m:a\n")
    assert message("teachers", "sdx") == "teacher 'sdx' is not installed; did you mean 'sdxl'?"


def test_an_unknown_name_with_no_neighbour_is_answered_with_all():
    assert message("teachers", "zzzz").startswith("teacher 'zzzz' is not installed; choose from ")


def test_a_missing_package_is_answered_with_the_extra_that_brings_it(site):
    install(
        site, "dmd2-ext", "[dmd2.exporters]\next = ext_module:export [fancy]\n", ext_module="import no_such_package"
    )
    assert message("exporters", "ext") == "exporter 'ext' needs no_such_package: pip install 'dmd2-ext[fancy]'"


def test_a_missing_package_without_an_extra_is_answered_with_its_name(site):
    install(site, "dmd2-bare", "[dmd2.exporters]\nbare = bare_module:export\n", bare_module="import no_such.part")
    assert message("exporters", "bare") == "exporter 'bare' needs no_such: pip install no_such"


def test_an_entry_point_to_nowhere_is_the_distribution_s_fault(site):
    install(site, "dmd2-void", "[dmd2.metrics]\nvoid = void_module:Metric\n")
    said = message("metrics", "void")
    assert said.startswith("metric 'void' of dmd2-void 1.2 cannot be imported: ModuleNotFoundError")


def test_a_missing_submodule_of_an_installed_package_is_not_called_a_missing_package(site):
    install(site, "dmd2-sub", "[dmd2.metrics]\nsub = sub_module:Metric\n", sub_module="import json.no_such_part")
    assert "pip install" not in message("metrics", "sub")


@pytest.mark.parametrize("source", ["1 / 0", "raise RuntimeError('two\\nlines')", "def (:"])
def test_a_plugin_that_breaks_on_import_is_named_with_its_distribution_and_the_cause(site, monkeypatch, source):
    install(site, "dmd2-broken", "[dmd2.losses]\nbroken = broken_module:Loss\n", broken_module=source)
    monkeypatch.delitem(sys.modules, "broken_module", raising=False)
    assert message("losses", "broken").startswith("loss 'broken' of dmd2-broken 1.2 cannot be imported: ")
    with pytest.raises(UserError) as caught:
        registry.load("losses", "broken")
    assert caught.value.__cause__ is not None


def test_a_missing_attribute_is_reported_like_a_broken_import(site):
    install(site, "dmd2-attr", "[dmd2.losses]\nattr = attr_module:Gone\n", attr_module="x = 1")
    assert "AttributeError" in message("losses", "attr")


def test_a_duplicate_names_both_distributions_and_breaks_no_other_name(site):
    install(site, "dmd2-one", "[dmd2.teachers]\ntwice = m:a\nsingle = single_module:a\n", single_module="a = 1")
    install(site, "dmd2-two", "[dmd2.teachers]\ntwice = m:b\n")
    said = message("teachers", "twice")
    assert "dmd2-one" in said and "dmd2-two" in said
    assert registry.load("teachers", "single") == 1
    problems = {plugin.name: plugin.problem for plugin in registry.describe("teachers")}
    assert problems["twice"] == said and problems["single"] == ""


@pytest.mark.parametrize("shown", ["none", "", "dmd2-other", "something-else, and-another"])
def test_dmd2_plugins_hides_distributions_but_never_ours(site, monkeypatch, shown):
    install(site, "dmd2-hidden", "[dmd2.teachers]\nhidden = m:a\n")
    ours = {plugin.name for plugin in registry.describe("teachers") if plugin.distribution == "dmd2cli"}
    monkeypatch.setenv("DMD2_PLUGINS", shown)
    assert set(registry.names("teachers")) == ours


@pytest.mark.parametrize("shown", ["dmd2-shown", "DMD2_Shown", "x, dmd2.shown"])
def test_dmd2_plugins_shows_the_distributions_it_names_however_spelled(site, monkeypatch, shown):
    install(site, "dmd2-shown", "[dmd2.teachers]\nvisible = m:a\n")
    monkeypatch.setenv("DMD2_PLUGINS", shown)
    assert "visible" in registry.names("teachers")


def test_an_unknown_name_under_dmd2_plugins_says_that_it_may_be_hidden(monkeypatch):
    monkeypatch.setenv("DMD2_PLUGINS", "none")
    assert message("teachers", "zzzz").endswith("(DMD2_PLUGINS is set and may hide it)")


def test_override_is_seen_by_names_and_load_and_ends_with_the_block():
    with registry.override("teachers", "mine", object()) as _, registry.override("teachers", "mine", "inner"):
        assert registry.load("teachers", "mine") == "inner" and "mine" in registry.names("teachers")
    assert "mine" not in registry.names("teachers")


def test_override_ends_even_when_the_block_fails():
    with pytest.raises(KeyError), registry.override("teachers", "mine", 1):
        raise KeyError
    assert "mine" not in registry.names("teachers")


@pytest.mark.parametrize(
    ("name", "choices", "tail"),
    [
        ("sdx", ["sdxl", "edm"], "; did you mean 'sdxl'?"),
        ("zzz", ["b", "a"], "; choose from a, b"),
        ("zzz", [], "; there is none to choose from"),
    ],
)
def test_suggest_gives_the_nearest_else_all(name, choices, tail):
    assert suggest(name, choices) == tail
