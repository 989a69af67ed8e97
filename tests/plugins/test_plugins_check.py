"""`dmd2 plugins check` on plugins that are broken in every way: named in words, one line each, never a traceback."""

import json
import textwrap

import pytest
from distributions import install

LOSS = """
from dataclasses import dataclass
from typing import ClassVar

@dataclass(frozen=True)
class Term:
    {options}
    player: ClassVar = "generator"
    reads_real: ClassVar = False

    def __call__(self, s, nets, rng):
        {body}
"""
GOOD = "return s.x.square().mean()"


def loss(body=GOOD, options="power: float = 2.0"):
    return LOSS.format(body=body, options=options)


def put(site, source, kind="losses", module="strange_module", distribution="strange-one"):
    install(site, distribution, f"[dmd2.{kind}]\nstrange = {module}:Term\n", **{module: textwrap.dedent(source)})


def wrong(dmd2, *args):
    """The lines of what failed, and the error line."""
    code, out, err = dmd2("plugins", "check", *args)
    said = [line for line in err.splitlines() if line.startswith("dmd2: error: ")]
    assert code == 2 and len(said) == 1 and "Traceback" not in out + err, (code, out, err)
    return "\n".join(line for line in out.splitlines() if "FAIL" in line), said[0]


def test_a_plugin_that_is_right_passes_with_a_line_for_every_check(dmd2, site):
    put(site, loss())
    code, out, _ = dmd2("plugins", "check", "strange")
    lines = out.splitlines()
    assert code == 0 and lines[0] == "loss strange (strange-one 1.2)" and "9 checks passed" in lines[-1]
    assert all(line.startswith("  ok    ") for line in lines[1:-1]) and len(lines) == 11


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_package", "loss 'strange' needs no_such_package: pip install no_such_package"),
        ("def (:", "strange_module.py:1"),
        ("x = 1\nraise RuntimeError('on import')", "cannot be imported: RuntimeError: on import"),
        ("import sys; sys.exit(3)", "cannot be imported: SystemExit: 3"),
        ("Other = 1", "has no attribute 'Term'"),
        ("Term = 7", "strange_module:Term must be a function or a class, not int"),
        ("DMD2_API = 99\nclass Term: ...", "is written for plugin API 99, and this dmd2cli has 1: update dmd2cli"),
        ("DMD2_API = 0\nclass Term: ...", "is written for plugin API 0, and this dmd2cli has 1: update strange-one"),
        ("DMD2_API = 'x'\nclass Term: ...", "is written for plugin API 'x'"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_told_why(dmd2, site, source, words):
    put(site, source)
    failed, said = wrong(dmd2, "strange")
    assert words in failed and failed.count("FAIL") == 1 and "1 of 1 checks failed" in said


@pytest.mark.parametrize(
    ("source", "check", "words"),
    [
        (loss(options="def __init__(self, power=2.0): ..."), "options", "power has no type annotation"),
        (loss(options="power: int = 'two'"), "options", "power"),
        (loss(options="power: Nowhere = 2.0").replace("\nfrom", "from __future__ import annotations\nfrom", 1),
         "options", "not known at run time"),
        (loss(options="power: object = print"), "options", "the default of option power is no plain value"),
        (loss(options="power: float"), "build", "strange.power is missing"),
        (loss(options="power: float = 1.0\n    def __post_init__(self):\n        raise KeyError('inside')"),
         "build", "KeyError: 'inside' (at "),
        (loss("raise ValueError('in the plugin')"), "value", "ValueError: in the plugin (at "),
        (loss("import sys; sys.exit('bye')"), "value", "calls sys.exit: bye (at "),
        (loss("return (s.x - nets.nothing).mean()"), "value", "AttributeError: 'Nets' object has no attribute"),
        (loss("return s.x.square().sum()"), "mean", "must be a mean over its micro-batch"),
        (loss("return s.x.detach().mean()"), "gradient", "teaches the generator nothing"),
        (loss("return (s.x - s.x).square().sum(1).sqrt().mean()"), "gradient", "not finite"),
    ],
)  # fmt: skip
def test_a_loss_that_is_wrong_is_told_in_which_check_and_how(dmd2, site, source, check, words):
    put(site, source)
    failed, _ = wrong(dmd2, "strange")
    first = failed.splitlines()[0]
    assert first.split()[1] == check and words in first


def test_a_crash_in_the_plugin_is_named_with_its_file_and_line_once(dmd2, site, monkeypatch):
    monkeypatch.chdir(site)
    put(site, loss("return helper(s.x)") + "\ndef helper(x):\n    raise ZeroDivisionError('deep')\n")
    code, out, _ = dmd2("plugins", "check", "strange")
    lines = (site / "strange_module.py").read_text().splitlines()
    line = 1 + lines.index("    raise ZeroDivisionError('deep')")
    assert code == 2 and f"ZeroDivisionError: deep (at strange_module.py:{line} in helper; --debug" in out
    assert out.count("FAIL") == 1 and out.count("not judged: as in value") == 4


def test_debug_shows_the_traceback_of_the_plugin(dmd2, site):
    put(site, loss("raise ValueError('in the plugin')"))
    code, _, err = dmd2("plugins", "check", "strange", "--debug")
    assert code == 2 and "Traceback" in err and "strange_module.py" in err


def test_what_a_plugin_prints_does_not_spoil_the_json(dmd2, site):
    put(site, "print('hello from import')\n" + loss("print('noise'); return s.x.square().sum()"))
    code, out, err = dmd2("plugins", "check", "strange", "--json")
    (found,) = json.loads(out)
    assert code == 2 and "hello from import" in err and not found["passed"]
    assert (found["kind"], found["name"], found["distribution"]) == ("losses", "strange", "strange-one")
    assert {c["check"] for c in found["checks"] if c["ok"] is False} == {"mean"}
    assert all(isinstance(c["seconds"], float) and c["says"] for c in found["checks"])


def test_a_distribution_s_name_means_all_that_it_registers_and_the_rest_is_judged_after_a_failure(dmd2, site):
    losses = "[dmd2.losses]\na-bad = none_module:Term\nb-good = pair_module:Term\n"
    entries = f"{losses}[dmd2.rewards]\nc = pair_module:dark\n"
    source = loss() + "\ndef dark():\n    return lambda images, conditions: -images.flatten(1).mean(1)\n"
    install(site, "Pair_Of-plugins", entries, pair_module=source)
    code, out, _ = dmd2("plugins", "check", "pair-of-plugins")
    assert code == 2 and out.count("FAIL") == 1
    heads = [line.split(" (")[0] for line in out.splitlines() if "(Pair" in line]
    assert heads == ["loss a-bad", "loss b-good", "reward c"]
    code, out, _ = dmd2("plugins", "check", "pair-of-plugins", "--kind", "reward")
    assert code == 0 and "loss" not in out.splitlines()[0]


def test_options_reach_the_plugin_and_bad_ones_are_refused(dmd2, site):
    put(site, loss("return (s.x.abs() ** self.power).mean()"))
    assert dmd2("plugins", "check", "strange", "power=3.0")[0] == 0
    assert "power" in wrong(dmd2, "strange", "power=text")[0]
    assert "nower" in wrong(dmd2, "strange", "nower=1.0")[0]
    assert "not KEY=VALUE" in wrong(dmd2, "strange", "power")[1]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["strang"], "strang: no plugin of this name, and no package that registers one; did you mean 'strange'?"),
        (["völlig-anders"], "dmd2 plugins list has them all"),
        (["strange", "--kind", "teachers"], "strange: registers no teacher, but: loss"),
        (["strange", "--kind", "tacher"], "--kind tacher: no kind of plugin; did you mean 'teacher'?"),
        (["strange", "--teacher", "no/such"], "--teacher no/such: expected NAME"),
        (["strange-one", "power=1.0", "--kind", "loss", "--teacher", "nobody"], "'nobody' is not installed"),
    ],
)
def test_what_is_asked_for_and_not_there_is_told(dmd2, site, args, words):
    put(site, loss())
    assert words in wrong(dmd2, *args)[1]


def test_options_for_several_plugins_at_once_are_refused(dmd2, site):
    entries = "[dmd2.losses]\ntwo = two_module:Term\n[dmd2.rewards]\ntwo = two_module:Term\n"
    install(site, "two", entries, two_module=loss())
    assert "of which of the 2 plugins of two? choose with --kind" in wrong(dmd2, "two", "power=1.0")[1]


def test_a_name_that_two_distributions_have_is_told(dmd2, site):
    put(site, loss())
    put(site, loss(), module="other_module", distribution="other-one")
    failed, _ = wrong(dmd2, "strange")
    assert failed.count("is provided by") == 2 and "uninstall one" in failed


def test_another_teacher_can_stand_beside_a_plugin(dmd2, site):
    put(site, loss("assert s.x.ndim == 4; return s.x.square().mean()"))
    assert dmd2("plugins", "check", "strange", "--teacher", "digits")[0] == 0
    failed, said = wrong(dmd2, "strange")
    assert "AssertionError (at " in failed
    assert said.endswith("--teacher NAME checks it with the images and conditions of another teacher")


@pytest.mark.parametrize(
    ("kind", "source", "words"),
    [
        ("teachers", "def Term():\n    return 'not one'", "must return a dmd2cli.protocols.Teacher, not str"),
        ("pretraining", "def Term():\n    return None", "must return a dmd2cli.protocols.Task, not NoneType"),
        ("students", "def Term():\n    return 1", "must return a published.Published, not int"),
        ("weightings", "def Term(alpha, sigma):\n    return -sigma", "must be positive and finite"),
        ("datasets", "class Term:\n    def __len__(self): return 0", "at least one item"),
        ("samplers", "class Term: ...", "must be a frozen dataclass"),
        ("metrics", "class Term: ...", "AttributeError"),
        ("rewards", "def Term():\n    return lambda images, conditions: images.mean()", "one number per image"),
        ("exporters", "def Term(student, out):\n    return {'max_pixel_difference': 0}", "must write to the path"),
        ("extractors", "class Term: ...", "AttributeError"),
    ],
)  # fmt: skip
def test_every_kind_says_what_is_wrong_with_a_stub(dmd2, site, kind, source, words):
    put(site, source, kind=kind)
    assert words in wrong(dmd2, "strange")[0]
