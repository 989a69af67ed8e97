"""dmd2 recipes explain: values, where they come from, what is written beside them, what the release has."""

import json
import subprocess
import sys

import pytest
from written import PRETRAIN

from dmd2cli.cli.app import main
from dmd2cli.errors import UserError
from dmd2cli.recipe_explain import cells, comments, explained

TEXT = """\
# Explained.
preset: dmd2-release
teacher: digits                     # bare
student: {lr: 5.0e-7, times: [1.0, 0.5]}   # "two" # calls
critic: {lr: 1.0e-3}
losses:
  gan_generator: {weight: 0.05}     # stronger
  gan_critic: null
sampler: {use: heun, label: 'a # b'}
metrics: [fd-digits, {use: modes}]
run: {steps: 100, batch: 64}
"""
STAGES = """\
stages:
  - until: 40
    losses:
      gan_generator: null           # off at first
  - losses: {gan_generator: {weight: 0.02}}
    ttur: 4                         # faster
"""


def rows(name, *overrides):
    return {row["key"]: row for row in explained(name, overrides)["rows"]}


@pytest.fixture
def found(write):
    return rows(write(TEXT), "run.seed=3", "metrics.1.n=9")


@pytest.mark.parametrize(
    ("key", "value", "source", "note"),
    [
        ("teacher.use", "digits", "r.yaml:3", "bare"),
        ("student.lr", 5e-7, "r.yaml:4", '"two" # calls'),
        ("student.times", [1.0, 0.5], "r.yaml:4", '"two" # calls'),
        ("critic.lr", 1e-3, "r.yaml:5", ""),
        ("critic.lag_every", "auto", "default", ""),
        ("losses.gan_generator.weight", 0.05, "r.yaml:7", "stronger"),
        ("sampler.label", "a # b", "r.yaml:9", ""),
        ("metrics.0.use", "fd-digits", "r.yaml:10", ""),
        ("metrics.1.use", "modes", "r.yaml:10", ""),
        ("metrics.1.n", 9, "override 'metrics.1.n=9'", ""),
        ("run.seed", 3, "override 'run.seed=3'", ""),
    ],
)
def test_a_row_has_the_value_where_it_was_written_and_the_comment_beside_it(found, key, value, source, note):
    assert {name: found[key].get(name) for name in ("value", "source", "note")} == {
        "value": value, "source": source, "note": note
    }  # fmt: skip


def test_a_value_of_a_preset_names_its_line_there_and_the_source_that_is_written_beside_it(found):
    assert found["ttur"]["source"] == "preset dmd2-release:4" and "Sec. 4.2" in found["ttur"]["note"]


def test_the_release_stands_only_where_it_differs(found):
    assert found["losses.gan_generator.weight"]["release"] == 3e-3
    assert [key for key, row in found.items() if "release" in row and "value" in row] == ["losses.gan_generator.weight"]


def test_a_term_of_the_release_that_is_not_there_has_no_value(found):
    row = found["losses.gan_critic.weight"]
    assert "value" not in row and row["release"] == 1e-2 and row["source"] == "r.yaml:8"


def test_every_leaf_has_one_row(write):
    keys = [row["key"] for row in explained(write(TEXT))["rows"]]
    assert len(keys) == len(set(keys)) > 60


def test_a_recipe_without_preset_is_compared_with_the_release_too(write):
    text = TEXT.replace("preset: dmd2-release\n", "").replace("  gan_critic: null\n", "  denoising: {}\n")
    found = rows(write(text), "student.input=real")
    assert found["ttur"]["value"] == 1 and found["ttur"]["source"] == "default" and found["ttur"]["release"] == 5
    assert found["student.input"]["release"] == "simulated" and "release" not in found["student.sampler"]
    assert found["losses.gan_critic.weight"] == {
        "key": "losses.gan_critic.weight", "source": "", "note": "", "release": 1e-2
    }  # fmt: skip


def test_a_stage_has_only_what_it_changes(write):
    first, second = explained(write(TEXT + STAGES), ["stages.1.run.clip=null"])["stages"]
    assert [(s["stage"], s["first"], s["until"]) for s in (first, second)] == [(0, 0, 40), (1, 40, 100)]
    assert {row["key"] for row in first["rows"]} == {
        f"losses.gan_generator.{name}" for name in ("weight", "auto_updates", "shared_noise", "diffusion_max_time")
    }
    gone = next(row for row in first["rows"] if row["key"] == "losses.gan_generator.weight")
    assert gone["source"] == "r.yaml:15" and gone["note"] == "off at first" and gone["release"] == 3e-3
    assert "value" not in gone
    changed = {row["key"]: (row["value"], row["source"]) for row in second["rows"]}
    assert changed == {
        "losses.gan_generator.weight": (0.02, "r.yaml:16"), "losses.gan_generator.auto_updates": (50, "default"),
        "ttur": (4, "r.yaml:17"), "run.clip": (None, "override 'stages.1.run.clip=null'"),
    }  # fmt: skip


def test_an_explained_pretraining_has_no_release(write):
    found = rows(write(PRETRAIN))
    assert found["optimiser.lr"]["source"] == "r.yaml:2" and found["run.steps"]["value"] == 1
    assert not [row for row in found.values() if "release" in row]


def test_a_packaged_recipe_is_named_as_people_name_it():
    assert rows("toy-grid25")["ttur"]["source"].startswith("recipes/toy-grid25.yaml:")


def test_a_bad_recipe_is_refused_as_anywhere(write):
    with pytest.raises(UserError, match=r"^r.yaml:5: critic.lr"):
        explained(write(TEXT.replace("{lr: 1.0e-3}", "{lr: x}")))


def test_comments_are_those_behind_values():
    text = "# no\na: 'x # y'  # yes\nb: # about b\n  c: 1#2\n  d: [1,  # first\n   2]   # second\n# no\r\ne: 1 # last"
    assert comments(text) == {2: "yes", 3: "about b", 5: "first", 6: "second", 8: "last"}


def test_cells_are_yaml_on_one_line():
    row = {"key": "k", "source": "s", "note": "", "value": 5e-7, "release": [1.0, None]}
    assert cells(row) == ["k", "5.0e-07", "s", "", "[1.0, null]"]
    assert cells({"key": "k", "source": "", "note": "n", "release": ""}) == ["k", "-", "", "n", "''"]


# -- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def dmd2(monkeypatch, capsys):
    def dmd2(*args):
        monkeypatch.setattr(sys, "argv", ["dmd2", *args])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code in (0, None)
        return capsys.readouterr().out

    return dmd2


def test_the_command_prints_a_table_for_the_recipe_and_one_for_each_stage(dmd2, write):
    base, *stages = dmd2("recipes", "explain", write(TEXT + STAGES), "ttur=6").split("\n\n")
    assert base.splitlines()[0].split() == ["KEY", "VALUE", "SOURCE", "NOTE", "RELEASE"]
    assert ["ttur", "6", "override", "'ttur=6'", "5"] in [line.split() for line in base.splitlines()]
    assert stages[0].startswith("stage 0, steps 0 to 40:\nKEY ") and "off at first" in stages[0]
    assert stages[1].startswith("stage 1, steps 40 to 100:\nKEY ") and "faster" in stages[1]


def test_the_command_prints_the_same_as_json(dmd2, write):
    name = write(TEXT)
    assert json.loads(dmd2("recipes", "explain", name, "--json")) == explained(name)


def test_the_list_of_recipes_ends_with_the_presets(dmd2):
    recipes, presets = dmd2("recipes", "list").split("\n\n")
    assert recipes.startswith("NAME") and presets.startswith("PRESET")
    assert [line.split()[0] for line in presets.splitlines()[1:]] == ["dmd1-paper", "dmd2-release", "fastgen"]
    assert "fastgen" not in recipes


def test_explaining_imports_no_torch():
    code = (
        "import sys; from dmd2cli.recipe_explain import explained; explained('digits', ['preset=fastgen']); "
        "print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
